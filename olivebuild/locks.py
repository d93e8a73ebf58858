"""Locks of the kernel: they go when their holder dies, so nobody ever unlocks by hand. Lock files are never deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from olivebuild.errors import StoreError

try:
    # What portalocker does here, too; importing that takes longer than planning an edit.
    import fcntl
except ImportError:
    import portalocker

    def _lock(handle: IO[bytes], *, shared: bool) -> bool:
        kind = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
        try:
            portalocker.lock(handle, kind | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.AlreadyLocked:
            return False
        except portalocker.LockException as e:
            raise OSError(str(e)) from None
        return True

else:

    def _lock(handle: IO[bytes], *, shared: bool) -> bool:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


HINT = "put it on a local disk; OLIVEBUILD_CACHE names another folder for the cache"


def try_lock(file: Path, *, shared: bool = False) -> IO[bytes] | None:
    """Hold `file` until the handle returned, and every copy that a child inherited, is closed; `shared`: beside others that share it.

    None when another process holds it. Raises StoreError where the file system has no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # A shared lock is for readers, an exclusive one for writers, on systems that care.
    handle = open(file, "a+b")  # noqa: SIM115 - the caller keeps it open for as long as the lock is held
    try:
        held = _lock(handle, shared=shared)
    except OSError as e:
        handle.close()
        raise StoreError(f"this file system has no working locks: {e}", where=str(file), hint=HINT) from None
    if held:
        return handle
    handle.close()
    return None


@contextmanager
def locked(file: Path, *, shared: bool = False) -> Iterator[None]:
    """Wait for the lock, and hold it for the block."""
    pause = 0.001
    while (handle := try_lock(file, shared=shared)) is None:
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)
    with handle:
        yield


def check(folder: Path) -> None:
    """Raises StoreError where the file system refuses locks, or grants the same one twice."""
    file = folder / "check.lock"
    first = try_lock(file)
    if first is None:
        # Another process is just checking: it has one.
        return
    with first:
        second = try_lock(file)
        if second:
            second.close()
            raise StoreError("this file system has no working locks: two hold the same one", where=str(file), hint=HINT)
