"""Blobs in the making: published under the digest of their bytes, or not at all."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

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


def test_threads_may_write_blobs_of_one_batch(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors of a conversion do: the first two of them decide that there are several."""
    together = Barrier(4)

    def write(text: str, batch: Batch) -> str:
        writer = batch.blob()
        writer.write(text.encode())
        together.wait()
        return writer.done()

    class Slow(ThreadPoolExecutor):
        """One that takes its time to begin, as its first import does."""

        def __init__(self, workers: int) -> None:
            time.sleep(0.05)
            super().__init__(workers)

    texts = [f"text {thread}" for thread in range(4)]
    with ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", Slow)
        with Batch(store, store.scratch("t"), sync=False) as batch:
            names = list(pool.map(write, texts, [batch] * 4))
    assert [store.read(name).decode() for name in names] == texts
