"""Objects downloaded in segments: in parallel, with bounded memory, and resumed.

A segment that is in the file is noted beside it, after it has reached the disk. So a download that
is killed goes on with the segments that are missing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.core.fs.positioned import pwrite
from olivebuild.ml.models.remotes.downloads import Downloads
from olivebuild.ml.models.remotes.objects.listing import File
from olivebuild.ml.models.remotes.objects.opened import Opened
from olivebuild.ml.models.remotes.sha256 import sha256_of

SEGMENT = 8 << 20
"""Bytes that one request brings, and that one thread holds."""
CONNECTIONS = 4
TRIES = 3
"""Of a segment whose connection breaks while it comes; a request itself is tried more often."""
EVERY = 0.2
"""Seconds between reports of progress."""


class Segment(NamedTuple):
    """Bytes `start` to `end` of a file, and the part that they go to."""

    file: File
    part: Part
    start: int
    end: int


class Part:
    """A file that is not whole yet, and the list of its segments that are there."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._list = path.with_name(path.name + ".segments")
        path.parent.mkdir(parents=True, exist_ok=True)
        done = self._noted()
        if not done or not path.is_file() or path.stat().st_size != size:
            self._list.unlink(missing_ok=True)
            done = set()
            with open(path, "wb") as f:
                f.truncate(size)
        self.done = done
        self._lock = threading.Lock()

    def _noted(self) -> set[int]:
        """Return the starts of the segments that are there; none if segments had another size."""
        with contextlib.suppress(OSError, ValueError):
            lines = self._list.read_text("ascii").splitlines(keepends=True)
            if lines and lines[0] == f"{SEGMENT}\n":
                # A killed process may have left half a line.
                return {int(line) for line in lines[1:] if line.endswith("\n")}
        return set()

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Write a segment, and note it when the disk has it."""
        descriptor = os.open(self.path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
        try:
            pwrite(descriptor, data, start)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with self._lock, open(self._list, "a", encoding="ascii") as f:
            if not f.tell():
                f.write(f"{SEGMENT}\n")
            f.write(f"{start}\n")
            self.done.add(start)

    @property
    def starts(self) -> range:
        return range(0, self.size, SEGMENT)

    def finish(self, target: Path) -> None:
        """Put the whole file in its place."""
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.path, target)
        self._list.unlink(missing_ok=True)


def download(job: Job, opened: Opened, files: Mapping[str, File], downloads: Downloads) -> None:
    """Bring files, local name -> object, into `downloads`, as far as they are not there.

    Raises InputError where one is no longer what it was when it was listed.
    """
    lacking = downloads.lacking({name: file.size for name, file in files.items()}, job)
    parts = {name: Part(downloads.parts / name, files[name].size) for name in lacking}
    total = sum(files[name].size for name in lacking)
    done = sum(min(SEGMENT, p.size - start) for p in parts.values() for start in p.done)
    if done:
        job.note(f"{done >> 20} of {total >> 20} MiB are there already: the download goes on")
    progress = _Progress(job, done, total)
    _in_parallel(opened, _missing(files, parts), progress)
    digests = {}
    for name, part in parts.items():
        digests[name] = sha256_of(part.path)
        if (expected := job.action.sha256.get(name, digests[name])) != digests[name]:
            part.path.unlink()
            raise _other_content(opened, files[name], digests[name], expected)
        part.finish(downloads.files / name)
    downloads.keep(digests)


def _other_content(opened: Opened, file: File, digest: str, expected: str) -> InputError:
    """Return the error of an object with the pinned entity tag and another content."""
    return InputError(
        f"{file.path} has sha256 {digest[:16]}..., olivebuild.lock says {expected[:16]}...",
        where=opened.where,
        hint="the store says that it has not changed: if it is right all the same, delete its "
        "entry below `digests` in olivebuild.lock",
    )


def _missing(files: Mapping[str, File], parts: Mapping[str, Part]) -> Iterator[Segment]:
    for name, part in parts.items():
        for start in part.starts:
            if start not in part.done:
                yield Segment(files[name], part, start, min(start + SEGMENT, part.size))


class _Progress:
    def __init__(self, job: Job, done: int, total: int) -> None:
        self.job, self.done, self.total = job, done, total
        self._told = 0.0

    def add(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self._told > EVERY or self.done >= self.total:
            self._told = time.monotonic()
            self.job.progress("fetching", self.done, self.total)


def _in_parallel(opened: Opened, segments: Iterator[Segment], progress: _Progress) -> None:
    """Fetch segments, few at a time; after an error no further ones. Raises InputError."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        running: dict[Future[int], Segment] = {}
        try:
            while True:
                for segment in islice(segments, CONNECTIONS - len(running)):
                    running[pool.submit(_fetch, opened, segment)] = segment
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in finished:
                    del running[one]
                    progress.add(one.result())
        finally:
            for one in running:
                one.cancel()


def _fetch(opened: Opened, segment: Segment) -> int:
    """Bring one segment; return its size. Raises InputError."""
    file, start, end = segment.file, segment.start, segment.end
    for left in reversed(range(TRIES)):
        try:
            data = _bytes(opened, file, start, end)
        except InputError:
            raise
        except Exception as e:  # noqa: BLE001
            # obstore passes on errors of its transport.
            if left and type(e).__name__ == "GenericError" and "decoding" in str(e):
                continue
            raise opened.error(e, file.path) from None
        segment.part.write(start, data)
        return end - start
    raise AssertionError


def _bytes(opened: Opened, file: File, start: int, end: int) -> memoryview:
    """Return bytes of the object as it was listed. Raises the store's errors and InputError."""
    import obstore

    options: dict[str, object] = {"range": (start, end)}
    if file.version:
        options["version"] = file.version
    elif file.etag:
        options["if_match"] = f'"{file.etag}"'
    result = obstore.get(opened.store, file.path, options=options)
    meta = result.meta
    etag = str(meta["e_tag"] or "").removeprefix("W/").strip('"')
    data = memoryview(result.bytes())
    if meta["size"] != file.size or (etag and etag != file.etag) or len(data) != end - start:
        fact, hint = opened.changed()
        raise InputError(f"{file.path}: {fact}", where=opened.where, hint=hint)
    return data
