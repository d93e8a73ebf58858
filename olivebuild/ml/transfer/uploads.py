"""Blobs of a store brought to a remote cache: several at once, those that lack.

An upload that is broken off goes on, the next time, with the blobs that are not there whole.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from olivebuild.cache.remote_records import RemoteBlob, blob_name
from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged
from olivebuild.ml.transfer.meter import Meter
from olivebuild.ml.transfer.remote import PART, Remote

TINY = 256 << 10
"""Bytes of a blob that is sent without a question whether it is there."""
LARGE, SMALL = 2, 8
"""Blobs on their way at once: those in parts, and others.

Of the former few, since a slow connection shows that it moves when a part has arrived.
"""


class Uploads:
    """Brings blobs to a remote cache, each once. Threads may call it at once."""

    def __init__(self, remote: Remote, store: Store, meter: Meter) -> None:
        self._remote, self._store, self._meter = remote, store, meter
        self._large, self._small = ThreadPoolExecutor(LARGE), ThreadPoolExecutor(SMALL)
        self._futures: dict[str, Future[tuple[RemoteBlob, int]]] = {}
        """Those that are on their way, or there."""
        self._lock = threading.Lock()

    def write(
        self, sizes: Mapping[str, int], replaced: Collection[str] = ()
    ) -> tuple[tuple[RemoteBlob, ...], int]:
        """Put blobs there, digest -> size; return them, and how many bytes were put.

        Of `replaced` nobody asks whether they are there. Raises BuildError and Damaged for what is
        damaged here, OSError, and obstore's errors.
        """
        futures = [self._begin(digest, size, digest in replaced) for digest, size in sizes.items()]
        results = [future.result() for future in futures]
        count = sum(sent for future, (_, sent) in zip(futures, results, strict=True) if sent)
        return tuple(blob for blob, _ in results), count

    def _begin(self, digest: str, size: int, is_replaced: bool) -> Future[tuple[RemoteBlob, int]]:
        pool = self._large if size > PART else self._small
        with self._lock:
            future = self._futures.get(digest)
            failed = future is not None and future.done() and future.exception() is not None
            if future is None or failed or is_replaced:
                future = pool.submit(self._one, digest, size, is_replaced)
                self._futures[digest] = future
            return future

    def _one(self, digest: str, size: int, is_replaced: bool) -> tuple[RemoteBlob, int]:
        name = blob_name(digest)
        content = _Content(self._store, digest, size, self._meter)
        if size <= TINY and not is_replaced:
            return self._tiny(name, content)
        if not is_replaced and self._remote.size(name) == size:
            return RemoteBlob(digest=digest, size=size, sha256=content.check()), 0
        self._meter.expect(size)
        self._remote.write(name, size, content.parts)
        self._meter.ended()
        # Where another's came before, ours was not read to its end.
        sha256 = content.sha256 or content.check()
        return RemoteBlob(digest=digest, size=size, sha256=sha256), size

    def _tiny(self, name: str, content: _Content) -> tuple[RemoteBlob, int]:
        """Put a blob there with one request, whether it is there or not."""
        data = b"".join(content.read())
        is_new = self._remote.create(name, data)
        if not is_new and self._remote.size(name) != len(data):
            self._remote.write(name, len(data), lambda: iter([data]))
            is_new = True
        if is_new:
            self._meter.expect(len(data))
            self._meter.moved(len(data))
            self._meter.ended()
        blob = RemoteBlob(digest=content.digest, size=len(data), sha256=content.sha256)
        return blob, len(data) if is_new else 0


class _Content:
    """The content of a blob here. `sha256` is "" until all of it was read."""

    def __init__(self, store: Store, digest: str, size: int, meter: Meter) -> None:
        self.sha256 = ""
        self.digest = digest
        self._store, self._size, self._meter = store, size, meter
        self._sent = 0

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes in parts, and count them as sent. Raises Damaged, OSError."""
        self._meter.moved(-self._sent)
        self._sent = 0
        for part in self.read():
            self._sent += len(part)
            self._meter.moved(len(part))
            yield part

    def check(self) -> str:
        """Read all; return the SHA-256. Raises Damaged, OSError."""
        for _ in self.read():
            pass
        return self.sha256

    def read(self) -> Iterator[bytes]:
        """Yield the bytes in parts, the last one only if all are right. Raises Damaged, OSError."""
        sha256, digest, left = hashlib.sha256(), hashing.hasher(), self._size
        with open(self._store.path(self.digest), "rb") as f:
            while left:
                part = f.read(min(PART, left))
                sha256.update(part)
                digest.update(part)
                left -= len(part)
                if not part or (not left and digest.hexdigest() != self.digest):
                    self._store.quarantine(self.digest)
                    raise Damaged(self.digest, "is damaged")
                yield part
        self.sha256 = sha256.hexdigest()
