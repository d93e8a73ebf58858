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
def exchange(tmp_path: Path) -> Exchange:
    return Exchange((tmp_path / "bucket").as_uri())


def put(exchange: Exchange, store: Store, text: str) -> RemoteBlob:
    one = RemoteBlob(**blob(store, text))  # type: ignore[arg-type]
    assert exchange.send_blobs(store, [one, one]) == one.size
    return one


def test_blobs_travel_once(exchange: Exchange, tmp_path: Path) -> None:
    one = put(exchange, Store(tmp_path / "a"), "some text")
    assert exchange.send_blobs(Store(tmp_path / "a"), [one]) == 0
    there = Store(tmp_path / "b")
    assert exchange.bring_blobs(there, [one, one]) == one.size
    assert there.read(one.digest) == b"some text"
    assert exchange.bring_blobs(there, [one]) == 0


@pytest.mark.parametrize("data", [b"some tixt", b"some text and more", b"", None])
def test_a_blob_that_is_another_is_refused_and_put_there_anew(
    exchange: Exchange, tmp_path: Path, data: bytes | None
) -> None:
    here, there = Store(tmp_path / "a"), Store(tmp_path / "b")
    one = put(exchange, here, "some text")
    file = tmp_path / "bucket" / blob_name(one.digest)
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(NotWhatWasPut) as e:
        exchange.bring_blobs(there, [one])
    assert e.value.digest == one.digest
    assert not there.blobs()
    assert exchange.send_blobs(here, [one], anew=[one.digest]) == one.size
    assert exchange.bring_blobs(there, [one]) == one.size


def test_what_the_store_has_no_more(exchange: Exchange, tmp_path: Path) -> None:
    store = Store(tmp_path / "a")
    one = RemoteBlob(**blob(store, "some text"))  # type: ignore[arg-type]
    store.path(one.digest).write_bytes(b"some tixt")
    with pytest.raises(StoreError, match="has changed on its way"):
        exchange.send_blobs(store, [one])
    store.path(one.digest).unlink()
    with pytest.raises(StoreError, match="is in the cache no more"):
        exchange.send_blobs(store, [one], anew=[one.digest])


def test_segments_and_what_becomes_of_them(exchange: Exchange) -> None:
    assert exchange.last_segment(ATTEMPT) == -1
    assert exchange.segment(ATTEMPT, 0) is None
    for number in range(3):
        name = ATTEMPT.segment(number)
        body = Segment(log=b"%d" % number).body()
        assert exchange.create(name, ATTEMPT.sealed(name, body))
    exchange.replace(ATTEMPT.task, b"x")
    assert exchange.last_segment(ATTEMPT) == 2
    assert exchange.segment(ATTEMPT, 1) == Segment(log=b"1")
    exchange.replace(ATTEMPT.segment(1), exchange.text(ATTEMPT.segment(2)) or b"")
    with pytest.raises(ValueError, match="00000001 is not what the other end"):
        exchange.segment(ATTEMPT, 1)
    exchange.delete(ATTEMPT.task)
    exchange.delete(ATTEMPT.task)
    assert exchange.text(ATTEMPT.task) is None
    exchange.delete_below(ATTEMPT.folder)
    assert exchange.last_segment(ATTEMPT) == -1


def test_a_text_without_end_is_refused(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olivebuild.ml.transfer.exchange.place.MOST_TEXT", 10)
    exchange.replace("x", b"0123456789a")
    with pytest.raises(ValueError, match="more than 10 bytes"):
        exchange.text("x")


def test_a_place_that_is_only_read_is_none() -> None:
    with pytest.raises(InputError, match="can only be read"):
        Exchange("https://127.0.0.1:1/x/")
