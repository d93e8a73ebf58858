"""Files: listed, stat'ed against the file system's own clock, written atomically and synced.

Knows nothing of digests. `hashing.py` builds on the stats and the clock.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

DEFAULT_MODE = 0o666
"""The mode that the system gives new files, before the umask."""
NOISE = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Names of files that desktop systems strew about."""
WHOLE_SECONDS_TICK_NS = 2_000_000_000
"""The coarsest clock of a file system in use: FAT stamps every other second."""
TICK_POLLS = 200
TICK_POLL_SECONDS = 0.002
ABANDONED_SECONDS = 3600

Stat = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below `folder` but NOISE, sorted by their relative POSIX path."""
    paths = []
    for parent, folders, names in os.walk(folder):
        # A link to a folder counts as a file: its target is never walked into unnoticed.
        links = [name for name in folders if os.path.islink(Path(parent, name))]
        paths += [Path(parent, name) for name in (*names, *links) if name not in NOISE]
    yield from sorted(paths, key=lambda p: p.relative_to(folder).as_posix())


def stat_of(path: Path) -> Stat:
    """Return the facts that change when a file does. Raises OSError."""
    s = os.stat(path)
    return (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


def is_past(stat: Sequence[int], moment: int) -> bool:
    """Return whether a change at `moment` or later would show in the file's stat.

    `moment` is by the file system's clock.
    """
    last = max(stat[3], stat[4])
    # Whole seconds: the disk is of another kind than the one whose clock was read, and may tick
    # every other second only.
    whole_seconds = last >= 0 and stat[4] % 1_000_000_000 == 0
    return last + (WHOLE_SECONDS_TICK_NS if whole_seconds else 0) < moment


def filesystem_time(folder: Path) -> int:
    """Return now, in nanoseconds, by the clock that stamps files in `folder`.

    That clock may differ from the system's and ticks coarsely. 0 where nothing can be written:
    then no digest is remembered.
    """
    marker = folder / f".clock-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_bytes(b"")
        return os.stat(marker).st_mtime_ns
    except OSError:
        return 0
    finally:
        with contextlib.suppress(OSError):
            marker.unlink()


def wait_for_tick(folder: Path, after_ns: int) -> None:
    """Wait until files written in `folder` get a time later than `after_ns`.

    Later changes are visible then.
    """
    for _ in range(TICK_POLLS):
        if filesystem_time(folder) > after_ns:
            return
        time.sleep(TICK_POLL_SECONDS)


def read_permissions(mode: int) -> int:
    """Return the mode that lets the same users read as `mode` does.

    The owner may write; for all others the umask decides.
    """
    return 0o600 | (0o060 if mode & 0o040 else 0) | (0o006 if mode & 0o004 else 0)


def opener(mode: int) -> Callable[[str, int], int]:
    """Return an opener for `open`: a new file has this mode at most, from its first byte on."""
    return lambda path, flags: os.open(path, flags, mode & DEFAULT_MODE)


def write_atomically(path: Path, data: bytes, mode: int = DEFAULT_MODE) -> None:
    """Write a file so that readers see the old content or the new one, also after a power cut.

    Raises OSError.
    """
    # Threads of one process may write the same blob at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(temporary, "wb", opener=opener(mode)) as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def abandoned_files(folder: Path) -> Iterator[Path]:
    """Yield the temporary files and clock markers that killed writers left in a folder.

    A file younger than ABANDONED_SECONDS may be in another process' hands.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _is_temporary(entry.name):
                continue
            # It may go meanwhile.
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED_SECONDS:
                    yield Path(entry.path)


def _is_temporary(name: str) -> bool:
    return name.startswith(".clock-") or (name[0] == "." and name.endswith(".tmp"))


def sweep_abandoned(folder: Path) -> None:
    """Delete what `abandoned_files` yields."""
    for path in list(abandoned_files(folder)):
        with contextlib.suppress(OSError):
            path.unlink()


def sync_file(path: Path) -> None:
    """Return when a file's content is safe from a power cut. Raises OSError."""
    with open(path, "rb+") as f:
        os.fsync(f.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are safe from a power cut.

    Windows has no call for that: there it does nothing. Raises OSError.
    """
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
