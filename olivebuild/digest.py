"""Digests of bytes, files and folders, and the memo that lets a known one be reused.

Knows nothing of recipes, keys or the store. A digest is XXH3-128 in hex (32 characters): fast, not cryptographic; it guards
against accidents and edits, not against an attacker who can write to the cache.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

CHUNK = 1 << 20
THREADS = min(8, os.cpu_count() or 1)
NOISE = {".DS_Store", "Thumbs.db", "desktop.ini"}

Stat = tuple[int, int, int, int, int]


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


def of_file(path: Path) -> str:
    running = hasher()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            running.update(chunk)
    return str(running.hexdigest())


def of_runs(path: Path, sizes: Sequence[int]) -> str:
    """The digest of the list of (digest, size) of a file's consecutive pieces. A file of another length has another digest."""
    found: list[tuple[str, int]] = []
    with open(path, "rb") as f:
        for size in sizes:
            running, left = hasher(), size
            while left and (chunk := f.read(min(left, CHUNK))):
                running.update(chunk)
                left -= len(chunk)
            found.append((str(running.hexdigest()), size - left))
        if rest := f.read(CHUNK):
            found.append((of_bytes(rest), -1))
    return of_json(found)


def files_below(folder: Path) -> Iterator[Path]:
    """All files below `folder`, sorted by their relative POSIX path; what desktop systems strew about is left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        # A link to a folder counts as a file: nobody looks behind it unseen.
        found += [Path(parent, name) for name in (*names, *(f for f in folders if os.path.islink(Path(parent, f)))) if name not in NOISE]
    yield from sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def stat_of(path: Path) -> Stat:
    s = os.stat(path)
    return (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


class StatMemo:
    """path -> (stat, digest): a digest is reused while (device, inode, size, mtime_ns, ctime_ns) are all as they were.

    A file whose mtime or ctime is not older than the scan's start, by the file system's own clock, may change again without a
    visible difference, so its digest is given but not remembered. `flavour` tells digests of different kinds apart.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, list[object]] = {}
        self._changed = False
        self.start_scan()
        try:
            loaded = json.loads(file.read_text("utf-8"))
            if isinstance(loaded, dict):
                self._known = loaded
        except (OSError, ValueError, RecursionError):
            pass

    def start_scan(self) -> None:
        """Take the file system's time: what was last changed before it can't change again unseen."""
        self._start = filesystem_time(self._file.parent)

    def digest(self, path: Path, compute: Callable[[Path], str] = of_file, flavour: str = "bytes") -> str:
        """The digest of `path`; hashes only when the stat differs from the one remembered. Raises OSError."""
        stat = stat_of(path)
        name = f"{flavour}:{path}"
        entry = self._known.get(name)
        if isinstance(entry, list) and len(entry) == 6 and entry[:5] == list(stat):
            return str(entry[5])
        digest = compute(path)
        if stat_of(path) != stat:
            return self.digest(path, compute, flavour)
        self.remember(path, stat, digest, flavour)
        return digest

    def remember(self, path: Path, stat: Stat, digest: str, flavour: str = "bytes") -> None:
        name = f"{flavour}:{path}"
        if max(stat[3], stat[4]) < self._start:
            self._known[name] = [*stat, digest]
            self._changed = True
        elif self._known.pop(name, None):
            self._changed = True

    def save(self) -> None:
        if self._changed:
            write_atomically(self._file, canonical_json(self._known).encode())
            self._changed = False


def filesystem_time(folder: Path) -> int:
    """Now, in nanoseconds, by the clock that stamps files in `folder` (it may differ from ours, and ticks coarsely)."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".clock-{os.getpid()}"
    marker.write_bytes(b"")
    try:
        return os.stat(marker).st_mtime_ns
    finally:
        marker.unlink()


def wait_for_tick(folder: Path, after_ns: int) -> None:
    """Wait until files written in `folder` get a time later than `after_ns`, so that later changes are visible."""
    for _ in range(200):
        if filesystem_time(folder) > after_ns:
            return
        time.sleep(0.002)


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old content or the new one, also after a power cut."""
    # Threads of one process may write the same blob at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when a file's content is safe from a power cut."""
    with open(path, "rb+") as f:
        os.fsync(f.fileno())
