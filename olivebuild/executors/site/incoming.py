"""Blobs on their way to a site: they arrive in pieces, and go on where a connection was cut.

    ROOT/incoming/DIGEST    what has arrived

A blob gets its name in the store when both of its digests are right.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.cache.store import Store
from olivebuild.core.errors import StoreError, of_disk
from olivebuild.core.fs.files import opener
from olivebuild.core.fs.locks import try_lock
from olivebuild.core.hashing import CHUNK, hasher
from olivebuild.executors.site.folder import PRIVATE

ABANDONED_SECONDS = 7 * 86400


class Incoming:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.root / "incoming"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()

    def has(self, digest: str, size: int) -> bool:
        """Return whether the store has a blob in its full size, which then counts as used now."""
        path = self._store.path(digest)
        with contextlib.suppress(OSError), self._store.in_use():
            if path.stat().st_size == size:
                self._store.touch(path)
                return True
        return False

    def arrived(self, digest: str, size: int) -> int:
        """Return how many bytes of a blob are there."""
        try:
            there = (self._folder / digest).stat().st_size
        except OSError:
            return 0
        return there if there <= size else 0

    def put(self, blob: RemoteBlob, offset: int, piece: bytes) -> int:
        """Append a piece, and return how many bytes are there now.

        One that does not follow what is there is left out. Raises StoreError where the whole is not
        what was announced: the blob then begins anew.
        """
        if self.has(blob.digest, blob.size):
            return blob.size
        path = self._folder / blob.digest
        with self._alone(blob.digest):
            try:
                there = self.arrived(blob.digest, blob.size)
                if offset == there and offset + len(piece) <= blob.size:
                    mode = "ab" if offset else "wb"
                    with open(path, mode, opener=opener(PRIVATE)) as f:
                        f.write(piece)
                    there += len(piece)
                if there == blob.size:
                    self._publish(path, blob)
            except OSError as e:
                raise of_disk(e, "the site's folder") from None
        return there

    @contextlib.contextmanager
    def _alone(self, digest: str) -> Iterator[None]:
        lock = try_lock(self._store.root / "locks" / f"incoming-{digest[:2]}.lock")
        while lock is None:
            time.sleep(0.01)
            lock = try_lock(self._store.root / "locks" / f"incoming-{digest[:2]}.lock")
        with lock:
            yield

    def _publish(self, path: Path, blob: RemoteBlob) -> None:
        """Raises StoreError and OSError."""
        sha256, name = hashlib.sha256(), hasher()
        with open(path, "rb+") as f:
            while piece := f.read(CHUNK):
                sha256.update(piece)
                name.update(piece)
            os.fsync(f.fileno())
        if (name.hexdigest(), sha256.hexdigest()) != (blob.digest, blob.sha256):
            path.unlink(missing_ok=True)
            raise StoreError(
                f"the blob {blob.digest[:8]} is not what was announced",
                hint="build again: it is sent anew",
            )
        place = self._store.path(blob.digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)

    def _sweep(self) -> None:
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > ABANDONED_SECONDS:
                        os.unlink(entry.path)
