"""Compiled kernels that trainings keep for each other.

They are code, which whoever loads them runs. So they lie in the user's own folder for caches,
wherever the store is that others may share, and nobody else may write or read there. They are
neither fetched nor passed on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

OWN = 0o700
"""Permissions of the folder."""


class Untrusted(Exception):
    """A folder that others may have written to; the text says why."""


def root() -> Path:
    """Return the folder that holds a folder for each key, which need not be there.

    It is $OLIVEBUILD_COMPILED, or in the platform's folder for the user's caches.
    """
    if named := os.environ.get("OLIVEBUILD_COMPILED"):
        return Path(named).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("olivebuild", appauthor=False) / "compiled"


def take(key: str) -> Path:
    """Return the folder of a key, made if it is not there, and mark it as used.

    Raises Untrusted, OSError.
    """
    folder = root()
    if inside := next((p for p in folder.parents if (p / ".git").exists()), None):
        raise Untrusted(f"{folder} lies in a repository, {inside}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for one in (folder, folder / key):
        one.mkdir(mode=OWN, exist_ok=True)
        _check_own(one)
    os.utime(folder / key)
    return folder / key


def _check_own(folder: Path) -> None:
    """Raise Untrusted for a folder that is a link, or another user's, or open to others."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise Untrusted(f"{folder} is not a folder")
    if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
        raise Untrusted(f"{folder} is open to other users")


def folders() -> Iterator[Path]:
    """Yield the folders of all keys."""
    return root().glob("*")
