"""Digests of bytes, files and folders, and the memo that lets a known one be reused.

Knows nothing of recipes, keys or the store. A digest is XXH3-128 in hex (32 characters): fast, not
cryptographic; it guards
against accidents and edits, not against an attacker who can write to the cache. A file of up to
SEGMENT bytes has the digest of its
bytes; a longer one that of the list of its segments' (digest, size), so that several threads can
share it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from olivebuild.core.fs import opening
from olivebuild.core.journal import Journal

CHUNK = 1 << 20
SEGMENT = 64 << 20
LONG = 1 << 30
"""From this size on, whoever listens hears how far hashing is."""
THREADS = min(8, os.cpu_count() or 1)
ALL = 0o666
"""What the system makes files with, before the umask."""
NOISE = {".DS_Store", "Thumbs.db", "desktop.ini"}

Stat = tuple[int, int, int, int, int]
Count = Callable[[int], None]
"""Told how many bytes more were read; by several threads."""
Compute = Callable[[Path, Count], str]
Found = TypeVar("Found")


def hasher() -> Any:
    """An incremental hasher: `update(bytes)`, `hexdigest()`."""
    return xxhash.xxh3_128()


def of_bytes(data: bytes | str) -> str:
    return xxhash.xxh3_128_hexdigest(data.encode() if isinstance(data, str) else data)


def of_json(value: object) -> str:
    """The digest of `value` written as canonical JSON: sorted keys, no white space."""
    return of_bytes(canonical_json(value))


def canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def nobody(_count: int) -> None:
    """Nobody counts."""


def of_file(path: Path, count: Count = nobody) -> str:
    return of_runs(path, segments(os.stat(path).st_size), count)


def segments(size: int) -> list[int]:
    """The sizes of the pieces in which a file of `size` bytes is hashed and stored."""
    return [SEGMENT] * (size // SEGMENT) + ([size % SEGMENT] if size % SEGMENT or not size else [])


def in_threads(work: Callable[..., Found], pieces: Iterable[tuple[Any, ...]]) -> list[Found]:
    """What `work` makes of each piece, in order; several pieces are shared among threads."""
    given = list(pieces)
    if len(given) < 2:
        return [work(*piece) for piece in given]
    # What runs threads, and logs, takes longer to import than the digest of a short file.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda piece: work(*piece), given))


def of_runs(path: Path, sizes: Sequence[int], count: Count = nobody) -> str:
    """The digest of the list of (digest, size) of a file's consecutive pieces; of a single piece,
    its own digest.

    A file of another length has another digest.
    """
    if len(sizes) == 1:
        return of_range(path, 0, None, count)[0]
    starts = list(accumulate(sizes, initial=0))
    found = in_threads(
        lambda start, size: of_range(path, start, size, count), zip(starts[:-1], sizes, strict=True)
    )
    if (rest := os.stat(path).st_size - starts[-1]) > 0:
        found.append((of_range(path, starts[-1], rest)[0], -1))
    return of_json(found)


def of_range(path: Path, start: int, size: int | None, count: Count = nobody) -> tuple[str, int]:
    """The plain digest of up to `size` bytes from `start` (None: to the end), and how many there
    were.
    """
    running, done = hasher(), 0
    with open(opening.open_handle(path), "rb", buffering=0) as f:
        wanted = os.fstat(f.fileno()).st_size - start if size is None else size
        # One buffer that stays in the processor's cache, and no allocation for each piece.
        buffer = memoryview(bytearray(max(1, min(wanted, CHUNK))))
        f.seek(start)
        while got := f.readinto(buffer if size is None else buffer[: size - done]):
            running.update(buffer[:got])
            done += got
            count(got)
    return str(running.hexdigest()), done


def files_below(folder: Path) -> Iterator[Path]:
    """All files below `folder`, sorted by their relative POSIX path; what desktop systems strew
    about is left out.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        # A link to a folder counts as a file: nobody looks behind it unseen.
        found += [
            Path(parent, name)
            for name in (*names, *(f for f in folders if os.path.islink(Path(parent, f))))
            if name not in NOISE
        ]
    yield from sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def stat_of(path: Path) -> Stat:
    s = os.stat(path)
    return (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


COARSE = 2_000_000_000


def is_past(stat: Sequence[int], moment: int) -> bool:
    """Whether what changes a file at `moment`, by the file system's clock, or later shows in its
    stat.
    """
    last = max(stat[3], stat[4])
    # Whole seconds: a disk of another kind than the one whose clock was read, which may tick every
    # other second only.
    return last + (COARSE if last >= 0 and stat[4] % 1_000_000_000 == 0 else 0) < moment


class StatMemo:
    """path -> (stat, digest): a digest is reused while (device, inode, size, mtime_ns, ctime_ns)
    are all as they were.

    A file whose mtime or ctime is not older than the scan's start, by the file system's own clock,
    may change again without a
    visible difference, so its digest is given but not remembered. `flavour` tells digests of
    different kinds apart.
    `listen(file, done, total)` hears how far the hashing of a long file is.
    """

    listen: Callable[[Path, int, int], None] | None = None

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = Journal(file)
        self.start_scan()

    def start_scan(self) -> None:
        """Take the file system's time: what was last changed before it can't change again
        unseen.
        """
        self._start = filesystem_time(self._file.parent)

    def digest(self, path: Path, compute: Compute = of_file, flavour: str = "bytes") -> str:
        """The digest of `path`; hashes only when the stat differs from the one remembered.

        Raises OSError.
        """
        stat = stat_of(path)
        name = f"{flavour}:{path}"
        entry = self._entry(name)
        if entry[:5] == list(stat) and (len(entry) == 6 or entry[6:] == [boot()]):
            return str(entry[5])
        digest = compute(
            path, Meter(path, stat[2], self.listen) if self.listen and stat[2] >= LONG else nobody
        )
        if stat_of(path) != stat:
            return self.digest(path, compute, flavour)
        self.remember(path, stat, digest, flavour)
        return digest

    def remember(
        self,
        path: Path,
        stat: Stat,
        digest: str,
        flavour: str = "bytes",
        *,
        until_boot: bool = False,
    ) -> None:
        """`until_boot`: the file was not synced, so after a power cut it may hold something else
        behind the same stat.
        """
        name = f"{flavour}:{path}"
        if is_past(stat, self._start):
            self._known.set(
                name, json.dumps([*stat, digest, *([boot()] if until_boot else [])]).encode()
            )
        elif self._known.get(name):
            self._known.forget(name)

    def _entry(self, name: str) -> list[object]:
        """Empty for what is not known."""
        try:
            found = json.loads(self._known.get(name) or b"[]")
        except (ValueError, RecursionError):
            return []
        return found if isinstance(found, list) else []

    def believed(self) -> list[tuple[str, Path, str]]:
        """(flavour, path, digest) of all files that would not be read now, since their stats are as
        they were.
        """
        found = []
        for name in self._known:
            flavour, _, path = name.partition(":")
            entry = self._entry(name)
            with contextlib.suppress(OSError):
                if len(entry) == 6 and entry[:5] == list(stat_of(Path(path))):
                    found.append((flavour, Path(path), str(entry[5])))
        return found

    def forget(self, path: Path) -> None:
        """Read this file, or all below this folder, the next time it is asked for."""
        for name in list(self._known):
            known = Path(name.partition(":")[2])
            if path == known or path in known.parents:
                self._known.forget(name)

    def save(self, *, alone: bool = False) -> None:
        """`alone`: nobody else writes now. Raises OSError."""
        self._known.save(alone=alone)


class Meter:
    """Adds up what several threads have read of a file, and tells it ten times a second."""

    def __init__(self, path: Path, total: int, listen: Callable[[Path, int, int], None]) -> None:
        self._path, self._total, self._listen = path, total, listen
        self._lock = threading.Lock()
        self._done, self._told = 0, time.monotonic()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            if time.monotonic() - self._told >= 0.1 or self._done == self._total:
                self._told = time.monotonic()
                self._listen(self._path, self._done, self._total)


@functools.cache
def boot() -> str:
    """Tells the system's time since it was started from that before; empty where it does not
    say.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def filesystem_time(folder: Path) -> int:
    """Now, in nanoseconds, by the clock that stamps files in `folder` (it may differ from ours, and
    ticks coarsely).

    0 where nothing can be written: then no digest is remembered.
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
    """Wait until files written in `folder` get a time later than `after_ns`, so that later changes
    are visible.
    """
    for _ in range(200):
        if filesystem_time(folder) > after_ns:
            return
        time.sleep(0.002)


def readers(mode: int) -> int:
    """The mode that says the same of who may read as a file's `mode`, and leaves who may write to
    the umask.
    """
    return 0o600 | (0o060 if mode & 0o040 else 0) | (0o006 if mode & 0o004 else 0)


def opener(mode: int) -> Callable[[str, int], int]:
    """For `open`: a file that is made then has this mode at most, from its first byte on."""
    return lambda path, flags: os.open(path, flags, mode & ALL)


def write_atomically(path: Path, data: bytes, mode: int = ALL) -> None:
    """Readers see the old content or the new one, also after a power cut."""
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


ABANDONED_SECONDS = 3600


def abandoned(folder: Path) -> Iterator[Path]:
    """What writers who were killed have left in a folder, and its clock markers.

    A younger one may be in another process' hands.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as inside:
        for entry in inside:
            if entry.name.startswith(".clock-") or (
                entry.name[0] == "." and entry.name.endswith(".tmp")
            ):
                # It may go meanwhile.
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED_SECONDS:
                        yield Path(entry.path)


def sweep_abandoned(folder: Path) -> None:
    for path in list(abandoned(folder)):
        with contextlib.suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Return when a file's content is safe from a power cut."""
    with open(path, "rb+") as f:
        os.fsync(f.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are safe from a power cut; on Windows they can't be told to
    be.
    """
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
