"""MLflow models that lie elsewhere: their files by the names that loaders look for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.formats.mlflow import mlmodel

File = TypeVar("File")
"""Whatever a source has for a file."""
Bring = Callable[[str], Path]
"""Fetches the file of a name, and returns its place on this disk."""


def is_mlflow(names: Collection[str]) -> bool:
    """Return whether files of these names are those of an MLflow model."""
    return mlmodel.root_of(names) is not None


def of_model(names: Collection[str]) -> list[str]:
    """Return those of the names that are below the folder of `MLmodel`."""
    root = mlmodel.root_of(names)
    return [name for name in names if not root or name.startswith(f"{root}/")]


def plain(job: Job, text: str, files: Mapping[str, File], bring: Bring) -> dict[str, File]:
    """Return plain name -> file, of the files of an MLflow model that is written as `text`.

    Its `MLmodel` is fetched to know them. Raises InputError.
    """
    root = mlmodel.root_of(files)
    assert root is not None
    start = f"{root}/" if root else ""
    file = bring(f"{start}{mlmodel.MLMODEL}")
    inner = {n.removeprefix(start): f for n, f in files.items() if n.startswith(start)}
    trust = bool(job.action.fields.get("trust_remote_code"))
    try:
        layout = mlmodel.layout_of(mlmodel.read(file), mlmodel.MLMODEL, trust=trust)
        chosen = mlmodel.files_of(layout, inner, mlmodel.MLMODEL)
    except InputError as e:
        raise InputError(f"{text}: {e.fact}", where=job.where("source"), hint=e.hint) from None
    return {name: inner[path] for name, path in chosen.items()}
