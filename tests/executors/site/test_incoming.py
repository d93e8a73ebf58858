"""Blobs that arrive in pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.core.errors import StoreError
from olivebuild.executors.site.incoming import Incoming

DATA = b"some bytes of a model"
NAME = hashing.of_bytes(DATA)
BLOB = RemoteBlob(digest=NAME, size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    return Incoming(Store(tmp_path))


def test_a_blob_goes_on_where_it_was_cut(tmp_path: Path, incoming: Incoming) -> None:
    assert incoming.put(BLOB, 0, DATA[:5]) == 5
    assert not incoming.has(NAME, len(DATA))
    again = Incoming(Store(tmp_path))
    assert again.arrived(NAME, len(DATA)) == 5
    # What does not follow is left out, also what is sent twice.
    assert again.put(BLOB, 0, DATA[:5]) == 5
    assert again.put(BLOB, 9, DATA[9:]) == 5
    assert again.put(BLOB, 5, DATA[5:]) == len(DATA)
    path = tmp_path / "blobs" / NAME[:2] / NAME
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o077 == 0
    assert again.has(NAME, len(DATA))
    assert not [*(tmp_path / "incoming").iterdir()]
    assert again.put(BLOB, 0, b"anything") == len(DATA)


def test_a_blob_without_bytes(tmp_path: Path, incoming: Incoming) -> None:
    empty = RemoteBlob(digest=hashing.of_bytes(b""), size=0, sha256=hashlib.sha256(b"").hexdigest())
    assert incoming.put(empty, 0, b"") == 0
    assert Store(tmp_path).read(empty.digest) == b""


@pytest.mark.parametrize("data", [DATA[:-1] + b"x", b"x" * len(DATA)])
def test_another_content_is_refused(tmp_path: Path, incoming: Incoming, data: bytes) -> None:
    with pytest.raises(StoreError, match="not what was announced"):
        incoming.put(BLOB, 0, data)
    assert not incoming.has(NAME, len(DATA))
    assert incoming.arrived(NAME, len(DATA)) == 0
    assert incoming.put(BLOB, 0, DATA) == len(DATA)


def test_an_equal_xxh3_is_not_enough(incoming: Incoming) -> None:
    forged = RemoteBlob(digest=NAME, size=len(DATA), sha256="0" * 64)
    with pytest.raises(StoreError, match="not what was announced"):
        incoming.put(forged, 0, DATA)


def test_more_than_was_announced_is_left_out(incoming: Incoming) -> None:
    assert incoming.put(BLOB, 0, DATA + b"more") == 0
