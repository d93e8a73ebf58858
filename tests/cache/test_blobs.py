"""Blobs in the making: published under the digest of their bytes, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from olivebuild.cache.blobs import Batch
from olivebuild.cache.store import Store
from olivebuild.core.hashing import of_bytes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.mark.parametrize("count", [1, 2, 70])
def test_blobs_lie_under_the_digests_of_their_bytes(store: Store, count: int) -> None:
    contents = [f"content {number}".encode() for number in range(count)]
    scratch = store.scratch("t")
    with Batch(store, scratch, sync=False) as batch:
        names = []
        for content in contents:
            writer = batch.blob()
            writer.write(content[:3])
            writer.write(np.frombuffer(content[3:], np.uint8))
            names.append(writer.done())
    assert names == [of_bytes(content) for content in contents]
    assert [store.read(name) for name in names] == contents
    assert list(scratch.iterdir()) == []


def test_an_error_in_the_middle_leaves_nothing_beside(store: Store) -> None:
    scratch = store.scratch("t")

    def write_half_a_blob() -> None:
        with Batch(store, scratch, sync=False) as batch:
            batch.blob().write(b"half of i")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half_a_blob()
    assert list(scratch.iterdir()) == []
    assert store.blobs() == []


def test_a_damaged_blob_of_that_name_is_replaced(store: Store) -> None:
    name = store.put_bytes(b"whole")
    store.path(name).chmod(0o600)
    store.path(name).write_bytes(b"cut")
    with Batch(store, store.scratch("t"), sync=True) as batch:
        writer = batch.blob()
        writer.write(b"whole")
        assert writer.done() == name
    assert store.path(name).read_bytes() == b"whole"
