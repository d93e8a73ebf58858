"""A stamp of olivebuild's own source files.

It changes when what a recipe means, or what a step makes, may have changed.
"""

import os
from collections.abc import Iterator

import olivebuild
from olivebuild.snapshot import checksum

ROOT = os.path.dirname(os.path.abspath(olivebuild.__file__))
APART = frozenset(("cli", "report", "ui"))
"""Folders of the package that decide what is shown, and neither what is made nor how."""
ABSENT = -1
_folders: list[str] = []
_stamps: dict[tuple[int, ...], str] = {}


def code() -> str:
    """Return a stamp that differs when a file of the package differs.

    Within one process the folders are walked once, and files are looked at again only when the
    times of a folder differ: an installer replaces files, and does not write into them.
    """
    times = _times()
    if times not in _stamps:
        _folders[:] = folders_below(ROOT)
        times = _times()
        _stamps[times] = stamp_of(ROOT, _folders)
    return _stamps[times]


def folders_below(root: str) -> list[str]:
    """Return the package's folders, itself the first, without those that are set apart."""
    folders = [root]
    for folder in folders:
        with os.scandir(folder) as entries:
            folders += sorted(
                entry.path for entry in entries if entry.is_dir() and _counts(entry, root)
            )
    return folders


def _counts(entry: os.DirEntry[str], root: str) -> bool:
    if entry.name == "__pycache__":
        return False
    return os.path.dirname(entry.path) != root or entry.name not in APART


def stamp_of(root: str, folders: list[str]) -> str:
    """Return a checksum of the names, sizes and times of all source files in `folders`."""
    lines = [line for folder in folders for line in _lines(root, folder)]
    return checksum("\n".join(sorted(lines)).encode(errors="surrogateescape"))


def _lines(root: str, folder: str) -> Iterator[str]:
    place = os.path.relpath(folder, root)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                stat = entry.stat()
                yield f"{place} {entry.name} {stat.st_size} {stat.st_mtime_ns}"


def _times() -> tuple[int, ...]:
    return tuple([_time(folder) for folder in _folders])


def _time(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        # An update of the package may have taken it away.
        return ABSENT
