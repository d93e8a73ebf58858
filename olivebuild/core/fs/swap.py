"""Put a new folder where another stands, so that readers see the old one or the new one, whole.

Linux swaps the two names in one call (renameat2 with RENAME_EXCHANGE). Elsewhere the old folder is
renamed aside first, and a journal lets the next build finish what a crash interrupted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from pathlib import Path

from olivebuild.core.errors import StoreError
from olivebuild.core.fs import trees
from olivebuild.core.fs.files import sync_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
PATIENCE_SECONDS = 5.0
"""How long to wait for those who read a folder that is to be replaced, where the system lets nobody
move it meanwhile.
"""
_move = os.rename


def replace_folder(new: Path, place: Path, aside: Path) -> None:
    """Move `new` to `place`; what stood there is deleted.

    `aside` is a free name on the same file system.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(place):
        os.rename(new, place)
    elif _exchange(new, place):
        _remove(new)
    else:
        _rename(place, aside, place)
        try:
            _rename(new, place, place)
        except BaseException:
            os.rename(aside, place)
            raise
        _remove(aside)
    sync_folder(place.parent)


def _rename(old: Path, new: Path, place: Path) -> None:
    """Windows refuses while somebody has a file of the folder open.

    Raises StoreError if that does not end soon.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _move(old, new)
            return
        except PermissionError:
            if time.monotonic() > deadline:
                hint = (
                    "close what reads it, and build again: the result is in the cache and no "
                    "step runs"
                )
                raise StoreError(
                    "another program has a file open in this folder", where=str(place), hint=hint
                ) from None
        time.sleep(0.05)


def finish(folder: Path, asides: Path) -> None:
    """Put the folder back that was renamed aside, or delete it.

    After a crash between the two renames.
    """
    for aside in asides.glob("*.aside"):
        place = folder / aside.name.removesuffix(".aside")
        if os.path.lexists(place):
            _remove(aside)
        else:
            os.rename(aside, place)


def _exchange(a: Path, b: Path) -> bool:
    """False where the system or the file system can't."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _remove(path: Path) -> None:
    trees.delete(path.parent, path)
