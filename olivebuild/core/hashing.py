"""Digests of bytes, files and folders, and the memo that lets a digest be reused.

Knows nothing of recipes, keys or the store.

A digest is XXH3-128 in hex (32 characters): fast, not cryptographic. It guards against accidents
and edits, not against an attacker who can write to the cache. A file of up to SEGMENT bytes has the
digest of its bytes. A longer one has that of the list of its segments' (digest, size), so that
several threads can share it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from olivebuild.core.fs import opening
from olivebuild.core.fs.files import Stat, filesystem_time, is_past, stat_of
from olivebuild.core.journal import Journal

CHUNK = 1 << 20
SEGMENT = 64 << 20
LONG = 1 << 30
"""Bytes. The hashing of files of this size or more reports progress."""
PROGRESS_SECONDS = 0.1
THREADS = min(8, os.cpu_count() or 1)

OnBytes = Callable[[int], None]
"""Called with the number of bytes just read; by several threads."""
Compute = Callable[[Path, OnBytes], str]
Value = TypeVar("Value")


def hasher() -> Any:
    """Return an incremental hasher: `update(bytes)`, `hexdigest()`."""
    return xxhash.xxh3_128()


def of_bytes(data: bytes | str) -> str:
    """Return the digest of bytes, or of text in UTF-8."""
    return xxhash.xxh3_128_hexdigest(data.encode() if isinstance(data, str) else data)


def of_json(value: object) -> str:
    """Return the digest of `value` written as canonical JSON."""
    return of_bytes(canonical_json(value))


def canonical_json(value: object) -> str:
    """Return `value` as JSON with sorted keys, without white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def ignore_progress(_count: int) -> None:
    """Take a number of bytes read, and do nothing."""


def of_file(path: Path, on_bytes: OnBytes = ignore_progress) -> str:
    """Return the digest of a file. Raises OSError."""
    return of_runs(path, segments(os.stat(path).st_size), on_bytes)


def segments(size: int) -> list[int]:
    """Return the sizes of the pieces in which a file of `size` bytes is hashed and stored."""
    return [SEGMENT] * (size // SEGMENT) + ([size % SEGMENT] if size % SEGMENT or not size else [])


def in_threads(work: Callable[..., Value], pieces: Iterable[tuple[Any, ...]]) -> list[Value]:
    """Return `work(*piece)` for each piece, in order; several pieces are shared among threads."""
    arguments = list(pieces)
    if len(arguments) < 2:
        return [work(*piece) for piece in arguments]
    # What runs threads, and logs, takes longer to import than the digest of a short file.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda piece: work(*piece), arguments))


def of_runs(path: Path, sizes: Sequence[int], on_bytes: OnBytes = ignore_progress) -> str:
    """Return the digest of the (digest, size) of a file's consecutive pieces.

    Of a single piece it is its own digest.

    A file of another length has another digest. Raises OSError.
    """
    if len(sizes) == 1:
        return of_range(path, 0, None, on_bytes)[0]
    starts = list(accumulate(sizes, initial=0))
    digests = in_threads(
        lambda start, size: of_range(path, start, size, on_bytes),
        zip(starts[:-1], sizes, strict=True),
    )
    if (rest := os.stat(path).st_size - starts[-1]) > 0:
        digests.append((of_range(path, starts[-1], rest)[0], -1))
    return of_json(digests)


def of_range(
    path: Path, start: int, size: int | None, on_bytes: OnBytes = ignore_progress
) -> tuple[str, int]:
    """Return the plain digest of up to `size` bytes from `start`, and their number.

    A `size` of None reads to the end. Raises OSError.
    """
    running, done = hasher(), 0
    with open(opening.open_handle(path), "rb", buffering=0) as f:
        wanted = os.fstat(f.fileno()).st_size - start if size is None else size
        # One buffer that stays in the processor's cache, and no allocation for each piece.
        buffer = memoryview(bytearray(max(1, min(wanted, CHUNK))))
        f.seek(start)
        while count := f.readinto(buffer if size is None else buffer[: size - done]):
            running.update(buffer[:count])
            done += count
            on_bytes(count)
    return str(running.hexdigest()), done


class StatMemo:
    """A map path -> (stat, digest).

    A digest is reused while (device, inode, size, mtime_ns, ctime_ns) are all as they were. A file
    whose mtime or ctime is not older than the scan's start, by the file system's own clock, may
    change again without a visible difference, so its digest is returned but not remembered.
    `digest_kind` tells digests of different kinds apart. `listen(file, done, total)` is called, in
    bytes, while a long file is hashed.
    """

    listen: Callable[[Path, int, int], None] | None = None

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries = Journal(file)
        self.start_scan()

    def start_scan(self) -> None:
        """Take the file system's time: a file changed before it can't change again unseen."""
        self._start = filesystem_time(self._file.parent)

    def digest(self, path: Path, compute: Compute = of_file, digest_kind: str = "bytes") -> str:
        """Return the digest of `path`; hash only if the stat differs from the one remembered.

        Raises OSError.
        """
        stat = stat_of(path)
        entry = self._entry(f"{digest_kind}:{path}")
        if entry[:5] == list(stat) and (len(entry) == 6 or entry[6:] == [boot()]):
            return str(entry[5])
        reports = self.listen is not None and stat[2] >= LONG
        digest = compute(
            path, ProgressMeter(path, stat[2], self.listen) if reports else ignore_progress
        )
        if stat_of(path) != stat:
            return self.digest(path, compute, digest_kind)
        self.remember(path, stat, digest, digest_kind)
        return digest

    def remember(
        self,
        path: Path,
        stat: Stat,
        digest: str,
        digest_kind: str = "bytes",
        *,
        until_boot: bool = False,
    ) -> None:
        """Remember a digest while the stat holds.

        `until_boot`: the file was not synced, so after a power cut it may hold other bytes behind
        the same stat.
        """
        name = f"{digest_kind}:{path}"
        if is_past(stat, self._start):
            self._entries.set(
                name, json.dumps([*stat, digest, *([boot()] if until_boot else [])]).encode()
            )
        elif self._entries.get(name):
            self._entries.forget(name)

    def _entry(self, name: str) -> list[object]:
        """Return [*stat, digest] or [*stat, digest, boot]; [] for an unknown name."""
        try:
            entry = json.loads(self._entries.get(name) or b"[]")
        except (ValueError, RecursionError):
            return []
        return entry if isinstance(entry, list) else []

    def cached_digests(self) -> list[tuple[str, Path, str]]:
        """Return (digest kind, path, digest) of all files that would not be read now.

        Their stats are as they were.
        """
        digests = []
        for name in self._entries:
            digest_kind, _, path = name.partition(":")
            entry = self._entry(name)
            with contextlib.suppress(OSError):
                if len(entry) == 6 and entry[:5] == list(stat_of(Path(path))):
                    digests.append((digest_kind, Path(path), str(entry[5])))
        return digests

    def forget(self, path: Path) -> None:
        """Read this file, or all below this folder, the next time it is asked for."""
        for name in list(self._entries):
            known_path = Path(name.partition(":")[2])
            if path == known_path or path in known_path.parents:
                self._entries.forget(name)

    def save(self, *, alone: bool = False) -> None:
        """Write the memo; `alone`: no other process writes it now. Raises OSError."""
        self._entries.save(alone=alone)


class ProgressMeter:
    """A counter of the bytes that several threads read of a file; it reports ten times a second."""

    def __init__(
        self, path: Path, total: int, listen: Callable[[Path, int, int], None] | None
    ) -> None:
        self._path, self._total, self._listen = path, total, listen
        self._lock = threading.Lock()
        self._done, self._reported_at = 0, time.monotonic()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            due = time.monotonic() - self._reported_at >= PROGRESS_SECONDS
            if self._listen and (due or self._done == self._total):
                self._reported_at = time.monotonic()
                self._listen(self._path, self._done, self._total)


@functools.cache
def boot() -> str:
    """Return an identifier of the time since the system was started.

    It is "" where the system does not report one.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
