"""The place of an exchange: what comes from there is what was put there, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.cache.remote_records import RemoteBlob, blob_name
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError, StoreError
from olivebuild.ml.transfer.exchange.place import Exchange, NotWhatWasPut
from olivebuild.ml.transfer.exchange.records import Attempt, Segment
from tests.support.exchange_job import blob

ATTEMPT = Attempt(key="a" * 32, name="b" * 16, secret="c" * 64)


@pytest.fixture
def here(tmp_path: Path) -> Exchange:
    return Exchange((tmp_path / "bucket").as_uri(), Store(tmp_path / "a"))


@pytest.fixture
def there(tmp_path: Path) -> Exchange:
    return Exchange((tmp_path / "bucket").as_uri(), Store(tmp_path / "b"))


def put(exchange: Exchange, text: str) -> RemoteBlob:
    one = RemoteBlob(**blob(exchange.store, text))  # type: ignore[arg-type]
    assert exchange.send_blobs([one, one]) == one.size
    return one


def test_blobs_travel_once(here: Exchange, there: Exchange, tmp_path: Path) -> None:
    one = put(here, "some text")
    again = Exchange(here.url, here.store)
    assert again.send_blobs([one]) == 0
    assert there.bring_blobs([one, one]) == one.size
    assert there.store.read(one.digest) == b"some text"
    assert there.bring_blobs([one]) == 0


@pytest.mark.parametrize("data", [b"some tixt", b"some text and more", b"", None])
def test_a_blob_that_is_another_is_refused_and_put_there_anew(
    here: Exchange, there: Exchange, tmp_path: Path, data: bytes | None
) -> None:
    one = put(here, "some text")
    file = tmp_path / "bucket" / blob_name(one.digest)
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(NotWhatWasPut) as e:
        there.bring_blobs([one])
    assert e.value.digests == (one.digest,)
    assert not there.store.blobs()
    assert here.send_blobs([one], anew=[one.digest]) == one.size
    assert there.bring_blobs([one]) == one.size


def test_what_the_store_has_no_more(here: Exchange) -> None:
    one = RemoteBlob(**blob(here.store, "some text"))  # type: ignore[arg-type]
    here.store.path(one.digest).write_bytes(b"some tixt")
    with pytest.raises(StoreError, match="is damaged"):
        here.send_blobs([one])
    with pytest.raises(StoreError, match="is in the cache no more"):
        here.send_blobs([one])


def test_segments_and_what_becomes_of_them(here: Exchange) -> None:
    assert here.last_segment(ATTEMPT) == -1
    assert here.segment(ATTEMPT, 0) is None
    for number in range(3):
        name = ATTEMPT.segment(number)
        body = Segment(log=b"%d" % number).body()
        assert here.create(name, ATTEMPT.sealed(name, body))
    here.replace(ATTEMPT.task, b"x")
    assert here.last_segment(ATTEMPT) == 2
    assert here.segment(ATTEMPT, 1) == Segment(log=b"1")
    here.replace(ATTEMPT.segment(1), here.text(ATTEMPT.segment(2)) or b"")
    with pytest.raises(ValueError, match="00000001 is not what the other end"):
        here.segment(ATTEMPT, 1)
    here.delete(ATTEMPT.task)
    here.delete(ATTEMPT.task)
    assert here.text(ATTEMPT.task) is None
    here.delete_below(ATTEMPT.folder)
    assert here.last_segment(ATTEMPT) == -1


def test_files(here: Exchange, tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"abc")
    here.send_file("x", file)
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    here.bring_file("x", other, 3, sha256)
    assert other.read_bytes() == b"abc"
    for size, digest in ((2, sha256), (3, "0" * 64)):
        with pytest.raises(ValueError, match="x is not what was put there"):
            here.bring_file("x", other, size, digest)
        assert not other.exists()


def test_a_text_without_end_is_refused(here: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olivebuild.ml.transfer.exchange.place.MOST_TEXT", 10)
    here.replace("x", b"0123456789a")
    with pytest.raises(StoreError, match="more than 10"):
        here.text("x")


def test_a_place_that_is_only_read_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can only be read"):
        Exchange("https://127.0.0.1:1/x/", Store(tmp_path))
