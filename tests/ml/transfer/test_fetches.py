"""Blobs that come from a remote cache: resumed, checked by both digests, each once."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.remote_records import RemoteBlob, blob_name
from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.core.errors import StoreError
from olivebuild.core.fs.locks import try_lock
from olivebuild.ml.transfer import fetches
from olivebuild.ml.transfer.fetches import Fetches
from olivebuild.ml.transfer.meter import Meter
from olivebuild.ml.transfer.remote import PIECE, TRIES, Remote

LONG = 2 * PIECE
DATA = random.Random(1).randbytes(4 * PIECE + 5)


class Counting(Remote):
    """A remote that notes where reading begins, and breaks after some pieces."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.as_uri())
        self.folder = folder
        self.starts: list[int] = []
        self.breaks: list[int] = []
        """After how many pieces each of the next downloads breaks."""

    def pieces(self, name: str, start: int, end: int) -> Iterator[memoryview]:
        self.starts.append(start)
        most = self.breaks.pop(0) if self.breaks else None
        for number, piece in enumerate(super().pieces(name, start, end)):
            if number == most:
                raise RuntimeError("decoding response body")
            yield piece

    def hold(self, data: bytes, of: bytes | None = None) -> RemoteBlob:
        """Hold `data` under the name and digests of `of`."""
        of = data if of is None else of
        digest, sha256 = hashing.of_bytes(of), hashlib.sha256(of).hexdigest()
        path = self.folder / blob_name(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return RemoteBlob(digest=digest, size=len(of), sha256=sha256)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(fetches, "LONG", LONG)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return Counting(tmp_path / "remote")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def fetching(remote: Remote, store: Store, meter: Meter | None = None) -> Fetches:
    return Fetches(remote, store, meter or Meter("fetching", lambda _: None))


def rest(store: Store) -> list[Path]:
    """Return the files that are no blobs."""
    found = [*(store.root / "tmp").iterdir(), *(store.root / "downloads").glob("*/part")]
    return [path for path in found if path.is_file() and path.stat().st_size]


def test_a_download_that_breaks_goes_on(remote: Counting, store: Store) -> None:
    blob, said = remote.hold(DATA), list[dict[str, Any]]()
    meter = Meter("fetching", said.append)
    remote.breaks = [2, 1]
    assert fetching(remote, store, meter).fetch([blob]) == len(DATA)
    meter.flush()
    assert store.read(blob.digest) == DATA
    # What was brought is not asked for again; the last piece that came before a break is lost.
    assert remote.starts[0] == 0
    assert remote.starts[1:] == sorted(set(remote.starts[1:]))
    assert remote.starts[-1] > 0
    assert (said[-1]["done"], said[-1]["total"]) == (len(DATA), len(DATA))


def test_one_that_was_killed_goes_on_in_the_next_process(remote: Counting, store: Store) -> None:
    blob = remote.hold(DATA)
    part = store.root / "downloads" / blob.digest / "part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[: 3 * PIECE])
    fetching(remote, store).fetch([blob])
    assert remote.starts == [3 * PIECE]
    assert store.read(blob.digest) == DATA
    assert rest(store) == []


@pytest.mark.parametrize("before", [b"x" * (3 * PIECE), b"x" * len(DATA), DATA + b"x"])
def test_a_part_that_is_wrong_is_brought_anew(
    remote: Counting, store: Store, before: bytes
) -> None:
    blob = remote.hold(DATA)
    part = store.root / "downloads" / blob.digest / "part"
    part.parent.mkdir(parents=True)
    part.write_bytes(before)
    work = fetching(remote, store)
    work.fetch([blob])
    assert store.read(blob.digest) == DATA
    assert work.bad == set()


def test_a_part_that_another_process_writes_is_left_to_it(remote: Counting, store: Store) -> None:
    blob = remote.hold(DATA)
    folder = store.root / "downloads" / blob.digest
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(DATA[:PIECE])
    with try_lock(folder / "lock") or pytest.fail("it is held"):
        fetching(remote, store).fetch([blob])
    assert store.read(blob.digest) == DATA
    assert (folder / "part").read_bytes() == DATA[:PIECE]


@pytest.mark.parametrize("of", [DATA, DATA[:100]])
@pytest.mark.parametrize(
    "harm", [lambda d: d[:-1] + b"?", lambda d: d[:-1], lambda d: d + b"?", lambda _: b""]
)
def test_what_is_wrong_there_is_not_taken(
    remote: Counting, store: Store, of: bytes, harm: Any
) -> None:
    blob = remote.hold(harm(of), of)
    work = fetching(remote, store)
    with pytest.raises(StoreError, match="is not what was put there"):
        work.fetch([blob])
    assert store.blobs() == rest(store) == []
    assert work.bad == {blob.digest}


def test_content_that_has_another_name_is_not_taken(remote: Counting, store: Store) -> None:
    """As one would have it who chooses SHA-256 and content, and not the name."""
    blob = remote.hold(b"other", b"other")
    named = RemoteBlob(digest=hashing.of_bytes(b"right"), size=5, sha256=blob.sha256)
    path = remote.folder / blob_name(named.digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"other")
    with pytest.raises(StoreError, match="another content than its name"):
        fetching(remote, store).fetch([named])
    assert store.blobs() == []


def test_a_connection_that_always_breaks_is_an_error(remote: Counting, store: Store) -> None:
    blob = remote.hold(DATA)
    remote.breaks = [0] * 20
    work = fetching(remote, store)
    with pytest.raises(RuntimeError, match="decoding"):
        work.fetch([blob])
    assert len(remote.starts) == TRIES
    assert work.bad == set()


def test_results_that_share_a_blob_bring_it_once(remote: Counting, store: Store) -> None:
    blob, missing = remote.hold(DATA), remote.hold(b"", b"not there")
    work = fetching(remote, store)
    threads = [threading.Thread(target=work.fetch, args=([blob],)) for _ in range(4)]
    with pytest.raises(StoreError):
        work.fetch([missing, blob])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read(blob.digest) == DATA
    assert len(remote.starts) == 2
