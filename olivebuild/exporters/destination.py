"""Where an export may go: a new folder or archive, apart from what builds write."""

from __future__ import annotations

import os
from pathlib import Path

from olivebuild.core.errors import StoreError
from olivebuild.exporters import archive
from olivebuild.planner.project import Project

UNKNOWN = (".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".gz", ".7z", ".rar", ".lz4")
"""Ends of names of archives that are not written here: a folder of that name would mislead."""


def check(project: Project, place: Path) -> None:
    """Raise StoreError where an export can't go, or would not stay or be what its name says."""
    if os.path.lexists(place):
        hint = "name a new place, or delete that one first"
        raise StoreError("there is something already", where=str(place), hint=hint)
    if not place.parent.is_dir():
        raise StoreError("its folder is not there", where=str(place), hint="make it first")
    suffix = archive.suffix_of(place)
    if not suffix and place.name.lower().endswith(UNKNOWN):
        hint = f"{', '.join(archive.SUFFIXES)} are written; a name without an ending is a folder"
        raise StoreError("archives of that form are not written", where=str(place), hint=hint)
    if len(place.name) == len(suffix):
        hint = f"name it x{suffix}: what it holds lies in a folder x"
        raise StoreError("an archive needs a name", where=str(place), hint=hint)
    real = place.parent.resolve()
    for folder, what in _of_builds(project):
        if real == folder or folder in real.parents:
            fact = f"builds replace and delete what lies in {what}"
            raise StoreError(fact, where=str(place), hint="name a place outside of it")


def _of_builds(project: Project) -> list[tuple[Path, str]]:
    """Return folders in which builds and sweeps write, and their names."""
    space = project.workspace
    folders = [(space.build, "build/"), (space.folder / ".olivebuild", ".olivebuild/")]
    folders.append((project.planner.store.root, "the cache"))
    return [(folder.resolve(), what) for folder, what in folders]
