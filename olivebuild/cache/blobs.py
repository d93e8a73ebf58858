"""Blobs in the making: written beside, hashed, synced, renamed, several at once.

The place at which they end up is the store's to name.
"""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from olivebuild.core import hashing
from olivebuild.core.errors import of_disk
from olivebuild.core.fs.files import DEFAULT_MODE, opener, sync_file

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


class BlobStore(Protocol):
    """The part of a store that its blobs in the making need."""

    @property
    def mode(self) -> int:
        """The permission bits that a blob may have at most."""

    def path(self, blob: str) -> Path:
        """Return the path under which a blob is published."""

    def has(self, name: str, size: int) -> bool:
        """Return whether a blob is there already, whole."""


class Batch:
    """Writes blobs, several at once.

    Syncing is the slow part and waits for the disk.
    """

    def __init__(self, store: BlobStore, scratch: Path, *, sync: bool) -> None:
        self.store = store
        self.scratch = scratch
        self._sync = sync
        self._pool: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []
        self._first: tuple[Path, str] | None = None
        """The first blob, until there is a second: alone it needs no thread."""
        self._open: set[BlobWriter] = set()
        self._lock = threading.Lock()

    def blob(self, mode: int = DEFAULT_MODE) -> BlobWriter:
        """`mode`: who may read it, by the system's bits; never more than the store's own."""
        writer = BlobWriter(self, mode & self.store.mode)
        self._open.add(writer)
        return writer

    def ended(self, writer: BlobWriter) -> None:
        self._open.discard(writer)

    def finish(self, temporary: Path, name: str) -> None:
        """Publish a blob that is written, soon. Threads may call it at once."""
        oldest = None
        with self._lock:
            if self._pool is None:
                if self._first is None:
                    self._first = temporary, name
                    return
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(8)
                self._pending.append(self._pool.submit(self._publish, *self._first))
            self._pending.append(self._pool.submit(self._publish, temporary, name))
            if len(self._pending) > 64:
                oldest = self._pending.pop(0)
        if oldest:
            oldest.result()

    def _publish(self, temporary: Path, name: str) -> None:
        path = self.store.path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._sync:
                sync_file(temporary)
            os.replace(temporary, path)
        except OSError as e:
            raise of_disk(e, "the cache") from None

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What an error left in the middle.
        for writer in list(self._open):
            writer.abandon()
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for pending in self._pending:
                pending.result()
            if self._first and not self._pool:
                self._publish(*self._first)


class BlobWriter:
    """One blob in the making, under a name of its own until it is whole."""

    def __init__(self, batch: Batch, mode: int) -> None:
        self._batch = batch
        self._hasher = hashing.hasher()
        self._path = batch.scratch / f"blob-{uuid.uuid4().hex[:16]}"
        self._size = 0
        try:
            self._file = open(self._path, "wb", buffering=0, opener=opener(mode))  # noqa: SIM115
        except OSError as e:
            raise of_disk(e, "the cache") from None

    def write(self, data: Any) -> None:
        """`data`: bytes, or a contiguous array."""
        view = memoryview(data)
        if not view.nbytes:
            return
        view = view.cast("B")
        self._hasher.update(view)
        try:
            while view:
                written = self._file.write(view)
                self._size += written
                view = view[written:]
        except OSError as e:
            self._file.close()
            self._path.unlink(missing_ok=True)
            raise of_disk(e, "the cache") from None

    def digest(self) -> str:
        """Return the digest of what was written so far."""
        return str(self._hasher.hexdigest())

    def done(self) -> str:
        """The blob's name. What lies under that name already is replaced if it is damaged."""
        self._file.close()
        self._batch.ended(self)
        name = str(self._hasher.hexdigest())
        if self._batch.store.has(name, self._size):
            self._path.unlink(missing_ok=True)
        else:
            self._batch.finish(self._path, name)
        return name

    def abandon(self) -> None:
        """Forget what was written."""
        self._file.close()
        self._path.unlink(missing_ok=True)
        self._batch.ended(self)
