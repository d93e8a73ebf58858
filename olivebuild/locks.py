"""Locks of the kernel: they go when their holder dies, so nobody ever unlocks by hand. Lock files are never deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import portalocker

from olivebuild.errors import StoreError


def try_lock(file: Path) -> IO[bytes] | None:
    """Hold `file` exclusively until the handle returned, and every copy that a child inherited, is closed.

    None when another process holds it. Raises StoreError where the file system has no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = open(file, "ab")  # noqa: SIM115 - the caller keeps it open for as long as the lock is held
    try:
        portalocker.lock(handle, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        handle.close()
        return None
    except portalocker.LockException as e:
        handle.close()
        if "temporarily unavailable" in str(e):
            return None
        hint = "set OLIVEBUILD_CACHE to a folder on a local disk"
        raise StoreError(f"this file system has no working locks: {e}", where=str(file), hint=hint) from None
    return handle


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait for the lock, and hold it for the block."""
    while (handle := try_lock(file)) is None:
        time.sleep(0.02)
    with handle:
        yield
