"""Inputs that are put in place on a site."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from olivebuild.cache.store import Store
from olivebuild.core.errors import Damaged
from olivebuild.executors.site import unpacking
from olivebuild.executors.site.unpacking import put_in_place, sweep


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Store, str]:
    folder = tmp_path / "made"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.txt").write_text("a")
    store = Store(tmp_path / "site", 0o600)
    return store, store.put_folder(folder)[1]


def test_an_input_is_put_in_place_once(stored: tuple[Store, str]) -> None:
    store, blob = stored
    place = put_in_place(store.root, store, blob)
    inode = (place / "sub/a.txt").stat().st_ino
    assert put_in_place(store.root, store, blob) == place
    assert (place / "sub/a.txt").stat().st_ino == inode
    assert (place / "sub/a.txt").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("change", ["written", "added", "deleted"])
def test_what_a_step_changed_is_put_in_place_again(stored: tuple[Store, str], change: str) -> None:
    store, blob = stored
    place = put_in_place(store.root, store, blob)
    match change:
        case "written":
            (place / "sub/a.txt").write_text("b")
            os.utime(place / "sub/a.txt", ns=(0, 0))
        case "added":
            (place / "b.txt").write_text("b")
        case _:
            (place / "sub/a.txt").unlink()
    assert put_in_place(store.root, store, blob) == place
    assert [p.name for p in place.rglob("*")] == ["sub", "a.txt"]
    assert (place / "sub/a.txt").read_text() == "a"


def test_what_is_damaged_leaves_nothing(stored: tuple[Store, str]) -> None:
    store, blob = stored
    store.path(store.manifest(blob).files[0].digest).write_text("x")
    with pytest.raises(Damaged):
        put_in_place(store.root, store, blob)
    assert not [*(store.root / "inputs").iterdir()]


def test_what_nobody_uses_is_swept(stored: tuple[Store, str]) -> None:
    store, blob = stored
    place = put_in_place(store.root, store, blob)
    (store.root / "jobs/0").mkdir(parents=True)
    sweep(store.root)
    assert place.exists()
    old = time.time() - unpacking.UNUSED - 1
    for path in (place, place.with_name(f"{blob}.json"), store.root / "jobs/0"):
        os.utime(path, (old, old))
    sweep(store.root)
    assert not [*(store.root / "inputs").iterdir()]
    assert not [*(store.root / "jobs").iterdir()]
