"""Blobs that go to a remote cache: those that lack, each once, and none that is damaged here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.remote_records import blob_name
from olivebuild.cache.store import Store
from olivebuild.core.errors import Damaged
from olivebuild.ml.transfer.meter import Meter
from olivebuild.ml.transfer.remote import PART, Remote
from olivebuild.ml.transfer.uploads import TINY, Uploads

SIZES = (0, 100, TINY + 1, PART + 1)


class There:
    """A remote cache in a folder, and a store whose blobs go there."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "remote"
        self.store = Store(root / "cache")
        self.said: list[dict[str, Any]] = []
        self.meter = Meter("uploading", self.said.append)

    def uploads(self) -> Uploads:
        return Uploads(Remote(self.folder.as_uri()), self.store, self.meter)

    def path(self, digest: str) -> Path:
        return self.folder / blob_name(digest)


@pytest.fixture
def there(tmp_path: Path) -> There:
    return There(tmp_path)


def test_what_lacks_is_put_there(there: There) -> None:
    sizes = {
        there.store.put_bytes(bytes([n]) * n_bytes): n_bytes for n, n_bytes in enumerate(SIZES)
    }
    blobs, count = there.uploads().write(sizes)
    there.meter.flush()
    assert count == sum(SIZES) == there.said[-1]["done"] == there.said[-1]["total"]
    assert {blob.digest: blob.size for blob in blobs} == sizes
    for blob in blobs:
        data = there.path(blob.digest).read_bytes()
        assert data == there.store.read(blob.digest)
        assert blob.sha256 == hashlib.sha256(data).hexdigest()
    # The second time all are there, with the same digests.
    assert there.uploads().write(sizes) == (blobs, 0)


@pytest.mark.parametrize("size", SIZES[1:])
def test_what_is_there_in_part_is_put_anew(there: There, size: int) -> None:
    digest = there.store.put_bytes(b"x" * size)
    there.path(digest).parent.mkdir(parents=True)
    there.path(digest).write_bytes(b"x" * (size - 1))
    assert there.uploads().write({digest: size})[1] == size
    assert there.path(digest).stat().st_size == size


@pytest.mark.parametrize("size", SIZES[1:])
def test_what_was_seen_to_be_wrong_is_replaced(there: There, size: int) -> None:
    digest = there.store.put_bytes(b"x" * size)
    there.path(digest).parent.mkdir(parents=True)
    there.path(digest).write_bytes(b"y" * size)
    assert there.uploads().write({digest: size}, {digest})[1] == size
    assert there.path(digest).read_bytes() == b"x" * size


@pytest.mark.parametrize("size", SIZES[1:])
def test_what_is_damaged_here_does_not_get_there(there: There, size: int) -> None:
    digest = there.store.put_bytes(b"x" * size)
    there.store.path(digest).write_bytes(b"y" * size)
    with pytest.raises(Damaged):
        there.uploads().write({digest: size})
    assert not there.path(digest).exists()
    assert not there.store.path(digest).exists()
