"""A target of build/, and what a layout has written of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from olivebuild.core.errors import InputError
from olivebuild.engine.provenance.lineage import DigestedFile, Lineage
from olivebuild.exporters.manifest import Runs, sha256_of
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project


class Origin(Struct, frozen=True, kw_only=True):
    """A target of build/, which a layout is made of."""

    project: Project
    plan: Plan
    lineage: Lineage
    folder: Path
    """Where its files lie."""
    runs: Mapping[str, Runs]
    """Name of a file -> its pieces, where the store knows them."""
    options: Mapping[str, str] = {}
    """Options of the command that belong to one layout."""

    @property
    def name(self) -> str:
        """The name of the model where others see it: the recipe's folder and the target."""
        return (
            f"{self.project.planner.scan.recipe.file.resolve().parent.name}-{self.lineage.target}"
        )


class Written(Struct, frozen=True, kw_only=True):
    """What a layout has written: name of a file -> its pieces; and what is to be said."""

    runs: Mapping[str, Runs] = {}
    notes: tuple[str, ...] = ()
    told: str = ""
    """What the card says of it, in Markdown."""
    library: str = ""
    """What loads it, as the Hugging Face hub names it; that of the target's kind where empty."""


Write = Callable[[Origin, Path], Written]
"""Writes a target's files into an empty folder. Raises BuildError."""


def runs_of(project: Project, plan: Plan, target: str) -> dict[str, Runs]:
    """Return name of a file of a target -> its pieces, where the store knows them."""
    trace = plan.states[target].trace
    if trace is None or not trace.manifest:
        return {}
    stored = project.planner.store.manifest(trace.manifest)
    return {entry.name: entry.blobs for entry in stored.files if entry.blobs}


def copy(
    origin: Origin, out: Path, place: Callable[[DigestedFile], str] = lambda file: file.name
) -> dict[str, Runs]:
    """Copy the files of a target; return the pieces of each.

    `place` says where a file goes, relative to the folder. Raises InputError.
    """
    runs = {}
    for file in origin.lineage.files:
        name = place(file)
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin.folder / file.name, target)
        if sha256_of(target) != file.sha256:
            fact = f"{file.name} changed while it was exported"
            raise InputError(fact, where=str(origin.folder), hint="export again")
        if file.name in origin.runs:
            runs[name] = origin.runs[file.name]
    return runs
