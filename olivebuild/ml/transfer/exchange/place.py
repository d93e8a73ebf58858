"""The place of an exchange: a remote cache's, whose objects may be replaced and deleted as well.

What comes from there is checked, by size and SHA-256, before it is put into a store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.cache.store import Store
from olivebuild.core.errors import Damaged, InputError, StoreError
from olivebuild.ml.transfer.exchange.records import MOST_TEXT, NUMBER, Attempt, Segment
from olivebuild.ml.transfer.fetches import Fetches
from olivebuild.ml.transfer.meter import Meter
from olivebuild.ml.transfer.remote import PART, Remote, WrongSize
from olivebuild.ml.transfer.uploads import Uploads

HINT = "the other end puts it there anew when the job is started again"


class NotWhatWasPut(StoreError):
    """Blobs of the exchange that differ from what their digests say, or are not there."""

    def __init__(self, digests: Collection[str]) -> None:
        names = ", ".join(sorted(digest[:8] for digest in digests))
        super().__init__(f"the blob {names} of the exchange is not what was put there", hint=HINT)
        self.digests = tuple(digests)


class Exchange(Remote):
    """A place that both ends of a job read and write, for the blobs of one store."""

    def __init__(self, url: str, store: Store) -> None:
        """Raises InputError."""
        super().__init__(url)
        if self.read_only:
            raise InputError(
                f"{url} can only be read, and an exchange is written to as well",
                hint="write file:///FOLDER, s3://..., gs://... or az://ACCOUNT/CONTAINER/PATH",
            )
        self.store = store
        self._uploads = Uploads(self, store, Meter("uploading", _ignore))
        self._fetches = Fetches(self, store, Meter("fetching", _ignore))

    def text(self, name: str) -> bytes | None:
        """Return an object; None where there is none. Raises StoreError for a very large one."""
        return self.read(name, MOST_TEXT)

    def last_segment(self, attempt: Attempt) -> int:
        """Return the number of an attempt's last segment; -1 where there is none."""
        names = [entry.name.rpartition("/")[2] for entry in self.entries(f"{attempt.folder}/")]
        return max((int(name) for name in names if NUMBER.fullmatch(name)), default=-1)

    def segment(self, attempt: Attempt, number: int) -> Segment | None:
        """Return a segment; None where there is none yet. Raises ValueError for another's."""
        name = attempt.segment(number)
        text = self.text(name)
        return None if text is None else Segment.from_body(attempt.opened(name, text))

    def delete_below(self, folder: str) -> None:
        """Delete all objects whose names begin with that of a folder."""
        for entry in self.entries(f"{folder}/"):
            self.delete(entry.name)

    def bring_file(self, name: str, path: Path, size: int, sha256: str) -> None:
        """Write an object into a file. Raises FileNotFoundError, and ValueError for another."""
        digest = hashlib.sha256()
        try:
            with open(path, "wb") as out:
                for piece in self.pieces(name, 0, size):
                    digest.update(piece)
                    out.write(piece)
        except WrongSize:
            digest = hashlib.sha256()
        if digest.hexdigest() != sha256:
            path.unlink()
            raise ValueError(f"{name} is not what was put there")

    def send_file(self, name: str, path: Path) -> None:
        """Put a file there, in parts if it is large."""

        def parts() -> Iterator[bytes]:
            with open(path, "rb") as f:
                while part := f.read(PART):
                    yield part

        self.write(name, path.stat().st_size, parts)

    def bring_blobs(self, blobs: Iterable[RemoteBlob]) -> int:
        """Bring what the store lacks, and return how many bytes that was.

        Raises NotWhatWasPut, StoreError, and what the place itself says.
        """
        self._fetches.bad.clear()
        try:
            return self._fetches.fetch(_each_once(blobs))
        except (StoreError, FileNotFoundError):
            if bad := self._fetches.bad:
                raise NotWhatWasPut(bad) from None
            raise

    def send_blobs(self, blobs: Iterable[RemoteBlob], anew: Collection[str] = ()) -> int:
        """Send what the place lacks, and return how many bytes that was.

        An object of the same name and size counts as there, unless its digest is in `anew`. Raises
        StoreError where the store has it no more or no longer as it was.
        """
        wanted = {blob.digest: blob for blob in blobs}
        sizes = {blob.digest: blob.size for blob in wanted.values()}
        try:
            sent, count = self._uploads.write(sizes, anew)
        except FileNotFoundError:
            raise StoreError("a blob is in the cache no more", hint="build again") from None
        except Damaged as e:
            raise StoreError(f"in the cache, {e}", hint="build again: it is made anew") from None
        if any(wanted[blob.digest].sha256 != blob.sha256 for blob in sent):
            raise StoreError("a blob has changed on its way", hint="build again")
        return count


def _each_once(blobs: Iterable[RemoteBlob]) -> list[RemoteBlob]:
    return list({blob.digest: blob for blob in blobs}.values())


def _ignore(_: object) -> None:
    """Say nothing of bytes on their way."""
