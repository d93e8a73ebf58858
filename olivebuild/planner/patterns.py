"""Paths and patterns of a recipe, and the files that they name on this disk."""

from __future__ import annotations

import os
import re
from pathlib import Path


def plain(path: Path) -> Path:
    """Return an absolute path without `..`, unless that would be another file.

    Behind a link to a folder it would.
    """
    if ".." not in path.parts:
        return path
    short = Path(os.path.normpath(path))
    return short if os.path.realpath(short) == os.path.realpath(path) else path


def matching(folder: Path, pattern: str, *, literal: bool = False) -> list[Path]:
    """The files that a path or pattern names now, sorted. A `literal` one is a file or nothing."""
    path = folder / pattern
    if literal:
        return [path] if path.is_file() else []
    if path.exists():
        return [path]
    fixed, wild = split(pattern)
    return sorted(p for p in (folder / fixed).glob(wild) if p.is_file()) if wild else []


def where_more_may_come(folder: Path, wild: str) -> set[Path]:
    """Return the folders below `folder` in which a new entry may match, also behind links.

    And what has such a name and is no file yet.
    """
    parts = wild.split("/")
    begun = [p for i in range(1, len(parts)) for p in folder.glob("/".join(parts[:i]))]
    return {p for p in begun if p.is_dir() or p.is_symlink()} | {
        p for p in folder.glob(wild) if not p.is_file()
    }


def split(pattern: str) -> tuple[Path, str]:
    """Return the folder that a pattern starts in, and the rest.

    The path itself, and nothing, if it is no pattern.
    """
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    return Path(*parts[:first]), "/".join(parts[first:])
