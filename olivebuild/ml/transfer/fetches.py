"""Blobs brought from a remote cache into a store: several at once, each once, resumed.

A long blob comes into a file of its own first, so that what is broken off goes on there:

    downloads/DIGEST/part     its bytes so far
    downloads/DIGEST/lock     held by the process that writes them

Nothing in it is trusted: all of it is hashed again when a download goes on.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from obstore.exceptions import NotSupportedError

from olivebuild.cache.remote_records import RemoteBlob, blob_name
from olivebuild.cache.store import Store
from olivebuild.core import hashing, host
from olivebuild.core.errors import BuildError, StoreError, of_disk
from olivebuild.core.fs.files import opener
from olivebuild.core.fs.locks import try_lock
from olivebuild.ml.transfer.meter import Meter
from olivebuild.ml.transfer.remote import TRIES, Remote, WrongSize
from olivebuild.ml.transfer.signing import HINT

CONNECTIONS = 8
"""Blobs on their way at once."""
LONG = 16 << 20
"""Bytes from which on a blob's download is resumed."""
WRITTEN_BACK = 32 << 20
"""Bytes after which the disk is asked to write what has come."""


class Fetches:
    """Brings blobs into a store. Threads may call it at once."""

    def __init__(self, remote: Remote, store: Store, meter: Meter) -> None:
        self.bad: set[str] = set()
        """Digests of blobs that do not lie there, or are not what they should be."""
        self._remote, self._store, self._meter = remote, store, meter
        self._pool = ThreadPoolExecutor(CONNECTIONS)
        self._running: dict[str, Future[int]] = {}
        self._coming = 0
        """Blobs whose bytes are coming."""
        self._lock = threading.Lock()

    def fetch(self, blobs: Iterable[RemoteBlob]) -> int:
        """Bring those blobs that the store lacks; return how many bytes they have.

        Each is checked by both its digests. Raises BuildError for what is damaged, OSError, and
        obstore's errors; then no further ones are begun.
        """
        futures = [(blob, self._begin(blob)) for blob in blobs]
        try:
            return sum(self._end(blob, future) for blob, future in futures)
        except BaseException:
            for _, future in futures:
                future.cancel()
            raise

    def _begin(self, blob: RemoteBlob) -> Future[int]:
        with self._lock:
            future = self._running.get(blob.digest)
            if future is None or future.cancelled():
                future = self._pool.submit(self._one, blob)
                self._running[blob.digest] = future
            return future

    def _end(self, blob: RemoteBlob, future: Future[int]) -> int:
        while True:
            try:
                return future.result()
            except CancelledError:
                # Another result that needs the blob has failed. We have not.
                future = self._begin(blob)

    def _one(self, blob: RemoteBlob) -> int:
        """Bring one blob; return its size, 0 if it is there."""
        try:
            if self._store.has(blob.digest, blob.size):
                return 0
            self._meter.expect(blob.size)
            self._bring(blob)
            self._meter.ended()
            return blob.size
        finally:
            with self._lock:
                self._running.pop(blob.digest, None)

    def _bring(self, blob: RemoteBlob) -> None:
        with self._part(blob) as part:
            if part.size:
                try:
                    self._receive(blob, part)
                    return
                except (StoreError, NotSupportedError):
                    # What was there may be what is wrong, or a server may know no ranges.
                    self._forget(part)
            try:
                self._receive(blob, part)
            except StoreError:
                self._forget(part)
                raise

    def _forget(self, part: Part) -> None:
        self._meter.moved(-part.size)
        part.begin_again()

    def _receive(self, blob: RemoteBlob, part: Part) -> None:
        """Receive what a part lacks, and put it into the store. Raises StoreError if it is bad."""
        short = blob.digest[:8]
        for left in reversed(range(TRIES)):
            begun = part.size
            try:
                self._stream(blob, part)
                break
            except (FileNotFoundError, PermissionError, NotSupportedError, BuildError):
                raise
            except Exception:
                # A connection that breaks has brought something, or is tried a few times.
                if not left and part.size == begun:
                    raise
                time.sleep(0.2 * (TRIES - left))
        self.bad.add(blob.digest)
        if part.size != blob.size or part.sha256.hexdigest() != blob.sha256:
            raise StoreError(f"the blob {short} is not what was put there", hint=HINT)
        if part.digest.hexdigest() != blob.digest:
            raise StoreError(f"the blob {short} has another content than its name", hint=HINT)
        self.bad.discard(blob.digest)
        part.publish(self._store, blob.digest)

    def _stream(self, blob: RemoteBlob, part: Part) -> None:
        if part.size >= blob.size > 0:
            return
        try:
            pieces = self._remote.pieces(blob_name(blob.digest), part.size, blob.size)
            # Where each core has a blob of its own to hash, a thread more only gets in the way.
            with self._streaming() as count:
                alone = blob.size >= LONG and count <= host.cores() // 2
                for piece in _one_ahead(pieces) if alone else pieces:
                    if part.size + len(piece) > blob.size:
                        raise WrongSize("it is longer than it says", hint=HINT)
                    part.write(piece)
                    self._meter.moved(len(piece))
        except FileNotFoundError:
            self.bad.add(blob.digest)
            raise
        except WrongSize as e:
            self.bad.add(blob.digest)
            fact = f"the blob {blob.digest[:8]} is not what was put there: {e.fact}"
            raise StoreError(fact, hint=HINT) from None

    @contextmanager
    def _streaming(self) -> Iterator[int]:
        """Yield how many blobs are coming now, this one among them."""
        with self._lock:
            self._coming += 1
            count = self._coming
        try:
            yield count
        finally:
            with self._lock:
                self._coming -= 1

    @contextmanager
    def _part(self, blob: RemoteBlob) -> Iterator[Part]:
        """Yield the file that a blob comes into.

        That of an earlier download, if it is long and no other process has that; else a new one,
        which goes if it is not published.
        """
        folder = self._store.root / "downloads" / blob.digest
        lock = None
        if blob.size >= LONG:
            folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(folder / "lock")
        if lock:
            with lock:
                os.utime(folder)
                part = Part(folder / "part", blob.size, self._store.mode)
                self._meter.moved(part.size)
                with part:
                    yield part
            return
        scratch = self._store.root / "tmp" / f"blob-{os.urandom(8).hex()}"
        part = Part(scratch, blob.size, self._store.mode)
        try:
            with part:
                yield part
        finally:
            scratch.unlink(missing_ok=True)


def _one_ahead(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """Yield pieces. The next is on its way while one is hashed: each takes about as long."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, pieces, None)
        while (piece := future.result()) is not None:
            future = pool.submit(next, pieces, None)
            yield piece


class Part:
    """A blob that is not whole yet, and both digests of its bytes so far; a context."""

    def __init__(self, path: Path, most: int, mode: int) -> None:
        """Open it. What is there stays, unless it is more than `most` bytes."""
        self.path, self.size = path, 0
        self.sha256, self.digest = hashlib.sha256(), hashing.hasher()
        try:
            self._file = open(path, "a+b", buffering=0, opener=opener(mode))  # noqa: SIM115
        except OSError as e:
            raise of_disk(e, "the cache") from None
        if self._file.seek(0, os.SEEK_END) > most:
            self._file.truncate(0)
        self._file.seek(0)
        while piece := self._file.read(hashing.CHUNK):
            self._count(piece)
        self._written_back = self.size

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, piece: memoryview) -> None:
        """Append bytes. Raises StoreError where the disk takes no more."""
        self._count(piece)
        try:
            while piece:
                piece = piece[self._file.write(piece) :]
            if self.size - self._written_back >= WRITTEN_BACK:
                self._write_back()
        except OSError as e:
            raise of_disk(e, "the cache") from None

    def _write_back(self) -> None:
        """Have the disk begin to write, so that it has little left to make safe in the end.

        Linux does so when it is told that nobody will need what is dirty (mm/fadvise.c), and keeps
        what is not written yet.
        """
        start, self._written_back = self._written_back, self.size
        if hasattr(os, "posix_fadvise"):
            count = self.size - start
            os.posix_fadvise(self._file.fileno(), start, count, os.POSIX_FADV_DONTNEED)

    def begin_again(self) -> None:
        """Forget all bytes."""
        self._file.truncate(0)
        self.size, self.sha256, self.digest = 0, hashlib.sha256(), hashing.hasher()
        self._written_back = 0

    def publish(self, store: Store, digest: str) -> None:
        """Make it a blob of the store, safe from a power cut."""
        self._file.close()
        with store.batch() as batch:
            batch.finish(self.path, digest)

    def _count(self, piece: Any) -> None:
        self.size += len(piece)
        self.sha256.update(piece)
        self.digest.update(piece)
