"""The place of an exchange: a remote cache's, whose objects may be replaced and deleted as well.

What comes from there is checked, by size and SHA-256, before it is put into a store.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from olivebuild.cache.remote_records import RemoteBlob, blob_name
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError, StoreError
from olivebuild.ml.transfer.exchange.records import MOST_TEXT, Attempt, Segment
from olivebuild.ml.transfer.remote import Remote

CONNECTIONS = 8
HINT = "the other end puts it there anew when the job is started again"


class NotWhatWasPut(StoreError):
    """A blob of the exchange that differs from what its digests say."""

    def __init__(self, blob: RemoteBlob) -> None:
        fact = f"the blob {blob.digest[:8]} of the exchange is not what was put there"
        super().__init__(fact, hint=HINT)
        self.digest = blob.digest


class Exchange(Remote):
    """A place that both ends of a job read and write."""

    def __init__(self, url: str) -> None:
        """Raises InputError."""
        super().__init__(url)
        if self.read_only:
            raise InputError(
                f"{url} can only be read, and an exchange is written to as well",
                hint="write file:///FOLDER, s3://..., gs://... or az://ACCOUNT/CONTAINER/PATH",
            )

    def text(self, name: str) -> bytes | None:
        """Return an object; None where there is none. Raises ValueError for a very large one."""
        pieces, size = [], 0
        try:
            for piece in self.pieces(name):
                size += len(piece)
                if size > MOST_TEXT:
                    raise ValueError(f"{name} has more than {MOST_TEXT} bytes")
                pieces.append(bytes(piece))
        except FileNotFoundError:
            return None
        return b"".join(pieces)

    def replace(self, name: str, data: bytes) -> None:
        """Put an object there, whether or not there is one."""
        import obstore

        obstore.put(self._store, self._prefix + name, data, use_multipart=False)

    def last_segment(self, attempt: Attempt) -> int:
        """Return the number of an attempt's last segment; -1 where there is none."""
        import obstore

        last = -1
        for page in obstore.list(self._store, prefix=f"{self._prefix}{attempt.folder}/"):
            names = [str(entry["path"]).rpartition("/")[2] for entry in page]
            last = max([last, *(int(n) for n in names if re.fullmatch("[0-9]{8}", n))])
        return last

    def segment(self, attempt: Attempt, number: int) -> Segment | None:
        """Return a segment; None where there is none yet. Raises ValueError for another's."""
        name = attempt.segment(number)
        text = self.text(name)
        return None if text is None else Segment.from_body(attempt.opened(name, text))

    def delete(self, name: str) -> None:
        """Delete an object, if there is one."""
        import obstore

        with contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, self._prefix + name)

    def delete_below(self, folder: str) -> None:
        """Delete all objects whose names begin with that of a folder."""
        import obstore

        for page in obstore.list(self._store, prefix=f"{self._prefix}{folder}/"):
            obstore.delete(self._store, [str(entry["path"]) for entry in page])

    def bring_file(self, name: str, path: Path, size: int, sha256: str) -> None:
        """Write an object into a file. Raises FileNotFoundError, and ValueError for another."""
        digest, count = hashlib.sha256(), 0
        with open(path, "wb") as out:
            for piece in self.pieces(name):
                count += len(piece)
                if count > size:
                    break
                digest.update(piece)
                out.write(piece)
        if count != size or digest.hexdigest() != sha256:
            path.unlink()
            raise ValueError(f"{name} is not what was put there")

    def bring_blobs(self, store: Store, blobs: Iterable[RemoteBlob]) -> int:
        """Bring what a store lacks, several at once, and return how many bytes that was.

        Raises NotWhatWasPut, StoreError, and what the place itself says.
        """
        lacking = [blob for blob in _each_once(blobs) if not store.has(blob.digest, blob.size)]
        _at_once(lambda blob: self._bring(store, blob), lacking)
        return sum(blob.size for blob in lacking)

    def _bring(self, store: Store, blob: RemoteBlob) -> None:
        sha256, size = hashlib.sha256(), 0
        with store.batch() as batch:
            writer = batch.blob()
            try:
                for piece in self.pieces(blob_name(blob.digest)):
                    size += len(piece)
                    if size > blob.size:
                        break
                    sha256.update(piece)
                    writer.write(piece)
            except FileNotFoundError:
                raise NotWhatWasPut(blob) from None
            differs = size != blob.size or sha256.hexdigest() != blob.sha256
            if differs or writer.digest() != blob.digest:
                raise NotWhatWasPut(blob)
            writer.done()

    def send_blobs(
        self, store: Store, blobs: Iterable[RemoteBlob], anew: Iterable[str] = ()
    ) -> int:
        """Send what the place lacks, and return how many bytes that was.

        An object of the same name and size counts as there, unless its digest is in `anew`. Raises
        StoreError where the store has it no more or no longer as it was.
        """
        anew = set(anew)

        def send(blob: RemoteBlob) -> int:
            name = blob_name(blob.digest)
            if blob.digest not in anew and self.size(name) == blob.size:
                return 0
            path = store.path(blob.digest)
            if not path.is_file():
                raise StoreError(
                    f"the blob {blob.digest[:8]} is in the cache no more", hint="build again"
                )
            if self.write(name, path, lambda _: None) != blob.sha256:
                raise StoreError(
                    f"the blob {blob.digest[:8]} has changed on its way",
                    hint="`olivebuild verify --repair` finds what is damaged",
                )
            return blob.size

        return sum(_at_once(send, list(_each_once(blobs))))


def _each_once(blobs: Iterable[RemoteBlob]) -> Iterable[RemoteBlob]:
    return {blob.digest: blob for blob in blobs}.values()


def _at_once(work: Callable[[RemoteBlob], object], blobs: list[RemoteBlob]) -> list[int]:
    """Return what the work gives for each, several at once. Raises what the first raised."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        results = list(pool.map(work, blobs))
    return [result for result in results if isinstance(result, int)]
