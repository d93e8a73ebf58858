"""Put a new folder where another stands, so that readers see the old one or the new one, whole.

Linux swaps the two names in one call (renameat2 with RENAME_EXCHANGE). Elsewhere the old folder is renamed aside first, and a
journal lets the next build finish what a crash interrupted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from olivebuild import digest

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def replace_folder(new: Path, place: Path, aside: Path) -> None:
    """Move `new` to `place`; what stood there is deleted. `aside` is a free name on the same file system."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(place):
        os.rename(new, place)
    elif _exchange(new, place):
        _remove(new)
    else:
        os.rename(place, aside)
        os.rename(new, place)
        _remove(aside)
    digest.sync_folder(place.parent)


def finish(folder: Path, asides: Path) -> None:
    """After a crash between the two renames: put the folder that was renamed aside back, or delete it."""
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
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
