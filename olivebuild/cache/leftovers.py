"""Files of the cache beside results that a sweep takes: what crashes have left, and what is old."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from olivebuild.cache import compiled, tensor_locations
from olivebuild.cache.store import SMALL_FILE_DIRS, Store
from olivebuild.core.fs.files import abandoned_files


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """The files beside blobs and traces that can go; times are in seconds since 1970."""

    store: Store
    running: tuple[Path, ...]
    """Scratch folders of steps that run."""
    downloads: set[Path]
    """Downloads that needed results refer to."""
    age: float
    """Seconds for which what is not needed is kept."""
    young: float
    """What was written later may be on its way into the cache."""
    now: float

    def files(self) -> dict[Path, int]:
        """Return path -> bytes."""
        root = self.store.root
        paths = [*self._dead_scratch(), *self._outdated()]
        for name in SMALL_FILE_DIRS:
            paths += abandoned_files(root / name)
        for path in (root / "sums").glob("*.json"):
            trace = self.store.path(path.stem).with_suffix(".trace")
            if not trace.exists() and time_of(path) < self.young:
                paths.append(path)
        for path in (root / "places").glob("*.json"):
            if not tensor_locations.holds(path):
                paths.append(path)
        return {path: _size_of(path) for path in paths}

    def _dead_scratch(self) -> Iterator[Path]:
        """Yield what killed steps and writers left."""
        root, alive = self.store.root, {folder.name for folder in self.running}
        for path in [*(root / "tmp").glob("*"), *(root / "blobs").glob("??/.*.tmp")]:
            # A folder that bears a key is alive while its lock is held; any other file goes by age.
            has_key = re.match("[0-9a-f]{32}-", path.name)
            if path.name not in alive if has_key else time_of(path) < self.young:
                yield path

    def _outdated(self) -> Iterator[Path]:
        """Yield quarantined files, downloads, training states and compiled kernels that are old."""
        root, keys = self.store.root, {folder.name[:32] for folder in self.running}
        for path in (root / "quarantine").glob("*"):
            if self.now - time_of(path, changed=True) > self.age:
                yield path
        for path in (root / "downloads").glob("*"):
            is_old = self.now - time_of(path) > self.age and time_of(path) < self.young
            if path not in self.downloads and is_old:
                yield path
        for path in (root / "checkpoints").glob("*"):
            if path.stem not in keys and self.now - time_of(path) > self.age:
                yield path
        for path in compiled.folders():
            if self.now - time_of(path) > self.age and time_of(path) < self.young:
                yield path


def time_of(path: Path, *, changed: bool = False) -> float:
    """Return when it was written, or, with `changed`, when it was last moved.

    Now if it has just gone.
    """
    try:
        return os.stat(path).st_ctime if changed else os.stat(path).st_mtime
    except OSError:
        return time.time()


def _size_of(path: Path) -> int:
    total = 0
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with suppress(OSError):
            total += 0 if one.is_dir() else one.lstat().st_size
    return total
