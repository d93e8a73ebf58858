"""Downloads in the cache: a folder for each pinned source, used where it lies.

    downloads/ID/files/...      what is whole
    downloads/ID/parts/...      what is not yet, with the segments that are there
    downloads/ID/digests.json   name -> SHA-256 of what is whole
    downloads/ID/sizes.json     name -> bytes of all that was wanted, when it was all there

Losing any of it costs time alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from olivebuild.api.job import Job
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.fs.locks import locked
from olivebuild.core.hashing import THREADS
from olivebuild.formats.source import Source
from olivebuild.ml.models.remotes.sha256 import sha256_of


class Downloads:
    """The downloaded files of one pinned source."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files, self.parts = root / "files", root / "parts"

    @classmethod
    def of(cls, job: Job, source: Source, pin: str) -> Downloads:
        name = hashlib.sha256(json.dumps([source.text, pin]).encode()).hexdigest()[:32]
        return cls(Path(job.action.store) / "downloads" / name)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other processes from downloading the same, and mark it as used now."""
        for folder in (self.files, self.parts):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(self.root / "lock"):
            os.utime(self.root)
            yield

    def finished(self) -> dict[str, int]:
        """Return name -> bytes of all files, if they were all here once; else nothing."""
        sizes = self._read("sizes.json")
        return sizes if all(isinstance(size, int) for size in sizes.values()) else {}

    def finish(self, sizes: Mapping[str, int]) -> None:
        """Record that these are all."""
        self._write("sizes.json", sizes)

    def digests(self) -> dict[str, str]:
        """Return name -> SHA-256 of the files that were once whole."""
        return {name: str(digest) for name, digest in self._read("digests.json").items()}

    def keep(self, digests: Mapping[str, str]) -> None:
        """Record more whole files."""
        self._write("digests.json", {**self.digests(), **digests})

    def _read(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads(opening.read(self.root / name))
        except (OSError, ValueError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}

    def _write(self, name: str, data: Mapping[str, object]) -> None:
        write_atomically(self.root / name, json.dumps(data, sort_keys=True).encode())

    def lacking(self, sizes: Mapping[str, int], job: Job) -> list[str]:
        """Return those of the names whose files are not there, or not what they were."""
        digests, expected = self.digests(), job.action.sha256

        def is_whole(name: str) -> bool:
            path = self.files / name
            try:
                whole = path.stat().st_size == sizes[name]
                whole = whole and expected.get(name, digests.get(name)) == digests.get(name)
                return whole and sha256_of(path) == digests.get(name)
            except OSError:
                return False

        with ThreadPoolExecutor(THREADS) as pool:
            lacking = [
                name
                for name, whole in zip(sizes, pool.map(is_whole, sizes), strict=True)
                if not whole
            ]
        if damaged := [name for name in lacking if name in digests]:
            more = " ..." if len(damaged) > 3 else ""
            job.note(f"damaged in the cache, so fetched again: {', '.join(damaged[:3])}{more}")
        return lacking
