"""Modes of files.

What a file system keeps of them (FAT and its kin show all as executable, or none), and whom a cache
lets in.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from olivebuild.core.errors import StoreError

_KEPT: dict[int, bool] = {}
"""By device."""


def is_executable(file: Path, mode: int) -> bool:
    """Return whether a file is meant to be executable.

    Of a file system that does not keep that, none is.
    """
    return bool(mode & stat.S_IXUSR) and kept_in(file.parent)


def set_executable(file: Path) -> None:
    try:
        mode = file.stat().st_mode
        # Who may read it may run it.
        file.chmod(mode | (mode & 0o444) >> 2)
    except PermissionError:
        if kept_in(file.parent):
            raise


def kept_in(folder: Path) -> bool:
    """Return whether a file there can be executable or not.

    Tried once for each device; where nothing may be written, it is taken for kept.
    """
    if os.name != "posix":
        return True
    with contextlib.suppress(OSError):
        device = folder.stat().st_dev
        if device not in _KEPT:
            import tempfile

            with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
                _KEPT[device] = [_after(file.fileno(), mode) for mode in (0o600, 0o700)] == [
                    False,
                    True,
                ]
        return _KEPT[device]
    return True


def _after(descriptor: int, mode: int) -> bool:
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, mode)
    return bool(os.fstat(descriptor).st_mode & stat.S_IXUSR)


# -- a cache of several users


def folders_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir()]


def check_readable(folders: Iterable[Path]) -> None:
    """Raises StoreError for a folder of the cache that another user lets nobody else into."""
    for folder in folders:
        if not os.access(folder, os.R_OK | os.X_OK):
            raise _kept(folder)


def hidden(error: PermissionError) -> StoreError:
    """Return what a file of the cache that may not be read is to whoever reads it."""
    return _kept(Path(error.filename))


def _kept(path: Path) -> StoreError:
    owner = "its owner"
    with contextlib.suppress(OSError, KeyError, ImportError):
        import pwd

        owner = pwd.getpwuid(path.stat().st_uid).pw_name
    hint = (
        "a cache that several share takes a group of theirs, `chmod -R g+rwXs` on its folder, and "
        "a umask of 002 for each"
    )
    return StoreError(
        f"the cache can't be read: {owner} lets nobody else read this",
        where=str(path),
        hint=f"{hint}; or OLIVEBUILD_CACHE names your own",
    )
