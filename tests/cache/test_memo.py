"""What was computed before is a memo: lost or damaged, it is as if it had never been there."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.cache.memo import Derived
from olivebuild.cache.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_what_is_written_is_read_by_the_next(store: Store) -> None:
    assert Derived(store).read("key") is None
    Derived(store).write("key", b"found")
    assert Derived(store).read("key") == b"found"
    Derived(store).write("key", b"found anew")
    assert Derived(store).read("key") == b"found anew"


@pytest.mark.parametrize("damage", [b"fOund", b"", None])
def test_what_is_damaged_is_not_read_and_written_anew(store: Store, damage: bytes | None) -> None:
    Derived(store).write("key", b"found")
    blob, _ = Derived(store).get(["key"])["key"][0]
    if damage is None:
        store.path(blob).unlink()
    else:
        store.path(blob).write_bytes(damage)
    assert Derived(store).read("key") is None
    Derived(store).write("key", b"found")
    assert Derived(store).read("key") == b"found"
