"""Leftovers of the cache: what crashes have left goes, and what is alive or young stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.leftovers import Leftovers, time_of
from olivebuild.cache.store import Store

NOW = 1_000_000.0
KEY, OTHER = "0" * 32, "1" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def put(store: Store, name: str, *, at: float, size: int = 3) -> Path:
    """Write a file of the cache at a time."""
    path = store.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (at, at))
    return path


def going(store: Store, **choices: Any) -> dict[str, int]:
    """Return name -> bytes of what can go, for a limit of 100 seconds and 10 to be young."""
    values: dict[str, Any] = {
        "running": (),
        "downloads": set(),
        "age": 100.0,
        "young": NOW - 10,
        "now": NOW,
    }
    leftovers = Leftovers(store=store, **(values | choices))
    return {p.relative_to(store.root).as_posix(): n for p, n in leftovers.files().items()}


def test_a_new_cache_has_none(store: Store) -> None:
    assert going(store) == {}


def test_scratch_of_a_step_that_runs_stays(store: Store) -> None:
    alive = put(store, f"tmp/{KEY}-a/out/file", at=NOW).parents[1]
    put(store, f"tmp/{OTHER}-b/out/file", at=NOW, size=5)
    assert going(store, running=(alive,)) == {f"tmp/{OTHER}-b": 5}


def test_sums_go_with_their_result(store: Store) -> None:
    put(store, f"sums/{KEY}.json", at=NOW - 11)
    put(store, f"sums/{OTHER}.json", at=NOW - 11)
    put(store, f"sums/{'2' * 32}.json", at=NOW - 9)
    put(store, "sums/files", at=NOW - 11)
    put(store, f"blobs/00/{KEY}.trace", at=NOW - 11)
    assert going(store) == {f"sums/{OTHER}.json": 3}


def test_another_file_of_a_writer_goes_by_age(store: Store) -> None:
    put(store, "tmp/old", at=NOW - 11)
    put(store, "tmp/young", at=NOW - 9)
    put(store, "blobs/ab/.x.tmp", at=NOW - 11)
    put(store, "blobs/ab/.y.tmp", at=NOW - 9)
    put(store, "blobs/ab/z", at=NOW - 11)
    assert going(store) == {"tmp/old": 3, "blobs/ab/.x.tmp": 3}


def test_a_download_stays_while_it_is_needed_or_used(store: Store) -> None:
    for name, at in (("old", NOW - 101), ("recent", NOW - 99), ("needed", NOW - 101)):
        path = put(store, f"downloads/{name}/files/a", at=at).parents[1]
        os.utime(path, (at, at))
    assert going(store, downloads={store.root / "downloads/needed"}) == {"downloads/old": 3}


def test_the_state_of_a_training_that_runs_stays(store: Store) -> None:
    for name, at in ((KEY, NOW - 101), (OTHER, NOW - 101), ("2" * 32, NOW - 99)):
        put(store, f"checkpoints/{name}.pt", at=at)
    running = (store.root / f"tmp/{KEY}-a",)
    assert going(store, running=running) == {f"checkpoints/{OTHER}.pt": 3}


def test_what_is_quarantined_goes_by_when_it_was_moved(store: Store) -> None:
    path = put(store, "quarantine/a", at=NOW - 500)
    moved = time_of(path, changed=True)
    assert moved > time_of(path)
    assert going(store, now=moved + 99, young=moved) == {}
    assert going(store, now=moved + 101, young=moved) == {"quarantine/a": 3}


def test_the_size_of_a_folder_is_that_of_its_files_and_links(store: Store) -> None:
    folder = put(store, f"tmp/{KEY}-a/b/c", at=NOW, size=7).parents[1]
    (folder / "link").symlink_to(folder / "gone")
    assert going(store) == {f"tmp/{KEY}-a": 7 + (folder / "link").lstat().st_size}


def test_what_has_just_gone_is_of_now(tmp_path: Path) -> None:
    assert time_of(tmp_path / "gone") > os.stat(tmp_path).st_mtime - 1
