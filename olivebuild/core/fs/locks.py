"""Locks of the kernel: they go when their holder dies, so nobody ever unlocks by hand.

Lock files are never deleted.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from olivebuild.core.errors import StoreError
from olivebuild.core.text import aside

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
    """Hold `file` until the handle returned is closed, and every copy that a child inherited.

    `shared`: beside others that share it.

    None when another process holds it. Raises StoreError where the file system has no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # A shared lock is for readers, an exclusive one for writers, on systems that care.
    handle = open(file, "a+b")  # noqa: SIM115 - the caller keeps it open for as long as the lock is held
    try:
        held = _lock(handle, shared=shared)
    except OSError as e:
        handle.close()
        raise StoreError(
            f"this file system has no working locks: {e}", where=str(file), hint=HINT
        ) from None
    if held:
        return handle
    handle.close()
    return None


SLOW_SECONDS, LONGEST_SECONDS = 5.0, 600.0
"""What `locked` holds is held for moments, so that a longer wait is told, and ends."""


@contextmanager
def locked(file: Path, *, shared: bool = False) -> Iterator[None]:
    """Wait for the lock, and hold it for the block. Raises StoreError when nobody gives it back."""
    pause, began, told = 0.001, time.monotonic(), False
    while (handle := try_lock(file, shared=shared)) is None:
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)
        waited = time.monotonic() - began
        if waited < SLOW_SECONDS or (told and waited < LONGEST_SECONDS):
            continue
        by = holders(file) or "another process"
        if waited >= LONGEST_SECONDS:
            raise StoreError(
                f"{by} has held this lock for {waited / 60:.0f} min",
                where=str(file),
                hint="has it been stopped? let it go on, or end it",
            )
        told = True
        aside(f"waiting for {file}, which {by} holds")
    with handle:
        yield


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder itself for the block, without a file for it; wait while another one does.

    Where the system has no such locks, or this file system, nothing is held.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            by = holders(folder) or "another process"
            aside(f"waiting for {by}, which works in {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            # A folder of a network's, for one.
            pass
        yield
    finally:
        os.close(handle)


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
            raise StoreError(
                "this file system has no working locks: two hold the same one",
                where=str(file),
                hint=HINT,
            )


def check_posix(folder: Path) -> None:
    """Check that the file system has locks of the sort that SQLite takes.

    They are others than ours. Raises StoreError.
    """
    try:
        import fcntl
    except ImportError:
        # There they are the same.
        return
    try:
        # A file of its own: closing a file gives up all such locks that this process has on it.
        with open(folder / "check-posix.lock", "a+b") as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return
    except OSError as e:
        if e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO):
            raise
        raise StoreError(
            f"this file system has no working locks: {e}", where=str(folder), hint=HINT
        ) from None


def holders(*files: Path) -> str:
    """Return who holds locks on these files: `process 123 (python)`.

    Empty where the system does not tell.
    """
    wanted = set()
    for file in files:
        with suppress(OSError):
            wanted.add(file.stat().st_ino)
    names = {}
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            # https://man7.org/linux/man-pages/man5/proc_locks.5.html; who waits has an arrow before
            # it.
            words = line.split()
            if (
                "->" not in words
                and int(words[5].rpartition(":")[2]) in wanted
                and (number := int(words[4])) not in (-1, 0, os.getpid())
            ):
                names[number] = _name_of(number)
    return ", ".join(
        f"process {number}{f' ({name})' if name else ''}" for number, name in sorted(names.items())
    )


def _name_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""
