"""`olivebuild gc`: what nobody needs goes, by age and by size; what a recipe or a running build
needs never does.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from olivebuild.cache import gc, gc_roots
from olivebuild.cache.gc import DAY, Limits
from olivebuild.cache.memo import Derived
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core.hashing import of_bytes
from olivebuild.engine import preflight
from tests.conftest import Place
from tests.properties.test_disks import chain, content, everything
from tests.support.sweeps import MONTH, SIZE, age, building, data, files, has, register, result

__all__ = ["chain"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_an_old_result_goes_and_a_young_and_a_needed_one_stay(store: Store, tmp_path: Path) -> None:
    old, young, needed = (
        result(store, tmp_path, name, days=days)
        for name, days in (("old", 40), ("young", 20), ("needed", 400))
    )
    register(store, tmp_path, needed)
    found = gc.collect(store, MONTH, delete=True)
    assert [r.key for r in found.results] == [old]
    assert [Traces(store).get(key) is not None for key in (old, young, needed)] == [
        False,
        True,
        True,
    ]
    assert has(store, "old", "young", "needed") == [False, True, True]
    assert found.freed == sum(found.blobs.values()) == found.results[0].size


def test_without_delete_nothing_changes(store: Store, tmp_path: Path) -> None:
    result(store, tmp_path, "old", days=40)
    store.put_bytes(b"of nothing")
    before = files(store)
    found = gc.collect(store, MONTH, delete=False)
    assert (len(found.results), found.unowned) == (1, len(b"of nothing"))
    # Whether a build runs is told by a lock.
    assert files(store) - before == {"locks/builds.lock"}
    assert before - files(store) == set()


def test_what_two_results_share_goes_with_the_last(store: Store, tmp_path: Path) -> None:
    result(store, tmp_path, "a", "shared", days=60)
    result(store, tmp_path, "b", "shared", days=50)
    found = gc.collect(store, MONTH, delete=False)
    assert [r.size > 2 * SIZE for r in found.results] == [False, True]
    register(store, tmp_path, of_bytes("made-b-shared"))
    gc.collect(store, MONTH, delete=True)
    assert has(store, "a", "b", "shared") == [False, True, True]


def test_a_result_that_a_recipe_has_left_counts_as_used_until_then(
    store: Store, tmp_path: Path
) -> None:
    one, two = result(store, tmp_path, "one", days=90), result(store, tmp_path, "two", days=90)
    register(store, tmp_path, one)
    register(store, tmp_path, two)
    assert gc.collect(store, MONTH, delete=True).results == ()
    age(Traces(store).file(one), 31)
    assert [r.key for r in gc.collect(store, MONTH, delete=True).results] == [one]


def test_a_workspace_that_lost_its_memory_keeps_what_it_had(store: Store, tmp_path: Path) -> None:
    one, two = result(store, tmp_path, "one", days=90), result(store, tmp_path, "two", days=90)
    recipe = tmp_path / "olivebuild.yaml"
    recipe.touch()
    gc_roots.register(
        store, recipe, gc_roots.registered(store, recipe), {"a": one, "b": two}, {"a", "b"}
    )
    gc_roots.register(store, recipe, gc_roots.registered(store, recipe), {"b": two}, {"a", "b"})
    assert gc.collect(store, MONTH, delete=True).results == ()


def test_over_the_limit_what_was_not_used_for_longest_goes_first(
    store: Store, tmp_path: Path
) -> None:
    keys = [
        result(store, tmp_path, name, days=days)
        for name, days in (("c", 1), ("a", 9), ("needed", 20), ("b", 5))
    ]
    register(store, tmp_path, keys[2])
    found = gc.collect(store, Limits(30 * DAY, size=int(2.5 * SIZE)), delete=True)
    assert [r.key for r in found.results] == [keys[1], keys[3]]
    assert has(store, "a", "b", "c", "needed") == [False, False, True, True]
    assert gc.collect(store, Limits(30 * DAY, size=0), delete=True).needed > SIZE
    assert has(store, "c", "needed") == [False, True]


def test_computed_tensors_go_before_results_and_take_their_rows_along(
    store: Store, tmp_path: Path
) -> None:
    result(store, tmp_path, "result", days=5)
    blob = store.put_bytes(data("computed"))
    Derived(store).put({"row": ((blob, SIZE),), "lost": (("0" * 32, 1),)})
    assert gc.collect(store, MONTH, delete=True).derived == ("lost",)
    assert has(store, "computed") == [True]
    found = gc.collect(store, Limits(30 * DAY, size=int(1.5 * SIZE)), delete=True)
    assert (found.results, found.derived) == ((), ("row",))
    assert (has(store, "computed", "result"), Derived(store).rows()) == ([False, True], {})


def test_a_computed_tensor_that_is_used_is_not_old(store: Store, tmp_path: Path) -> None:
    blob = store.put_bytes(data("computed"))
    Derived(store).put({"row": ((blob, SIZE),)})
    age(store.path(blob), 40)
    assert Derived(store).get(["row"])
    assert gc.collect(store, MONTH, delete=True).blobs == {}
    age(store.path(blob), 40)
    assert gc.collect(store, MONTH, delete=True).blobs == {blob: SIZE}


def test_what_a_missing_recipe_had_is_kept_for_a_week(store: Store, tmp_path: Path) -> None:
    key = result(store, tmp_path, "a", days=90)
    recipe = register(store, tmp_path, key)
    recipe.unlink()
    assert gc.collect(store, Limits(0), delete=False).gone == tuple(gc_roots.all_registered(store))
    assert gc.collect(store, Limits(0), delete=True).results == ()
    (one,) = gc_roots.all_registered(store)
    assert abs(one.gone - time.time()) < 60
    gc_roots.write(store, gc_roots.Registered(one.recipe, one.keys, one.gone - 6 * DAY))
    assert gc.collect(store, Limits(0), delete=True).results == ()
    gc_roots.write(store, gc_roots.Registered(one.recipe, one.keys, one.gone - 8 * DAY))
    assert [r.key for r in gc.collect(store, Limits(0), delete=True).results] == [key]
    assert gc_roots.all_registered(store) == []


def test_a_recipe_that_comes_back_counts_again(store: Store, tmp_path: Path) -> None:
    key = result(store, tmp_path, "a", days=90)
    recipe = register(store, tmp_path, key)
    gc_roots.write(
        store, gc_roots.Registered(str(recipe), {"t0": key}, int(time.time() - 90 * DAY))
    )
    assert gc.collect(store, Limits(0), delete=True).results == ()
    register(store, tmp_path, key)
    assert gc_roots.all_registered(store)[0].gone == 0


def test_what_crashes_have_left_goes_and_lock_files_stay(store: Store, tmp_path: Path) -> None:
    (store.root / "blobs/aa").mkdir()
    left = [
        store.root / "tmp/blob-0123",
        store.root / "tmp/pin-1-2/out",
        store.root / "blobs/aa/.aaaa.0123.tmp",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    (store.root / "places" / f"{'0' * 32}-01234567.json").write_text("{}")
    (store.root / "locks" / f"{'0' * 32}.lock").touch()
    with building(store):
        assert gc.collect(store, MONTH, delete=True).files.keys() == {
            store.root / "places" / f"{'0' * 32}-01234567.json"
        }
    assert sum(gc.collect(store, MONTH, delete=True).files.values()) == 12
    assert not any(path.exists() for path in left)
    assert files(store) - {"locks/check-posix.lock"} == {
        "locks/builds.lock",
        "locks/sweep.lock",
        f"locks/{'0' * 32}.lock",
    }


def leave(store: Store) -> tuple[list[Path], list[Path]]:
    """What writers who were killed an hour ago have left among small files, and what may be in
    somebody's hands.
    """
    old = [
        store.root / place
        for place in (
            "workspaces/.a.json.0123.tmp",
            "places/.b.json.0123.tmp",
            "proofs/.c.0123.tmp",
            "history/.d.jsonl.0123.tmp",
        )
    ]
    young = [path.with_name(".young.0123.tmp") for path in old]
    for path in (*old, *young):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    for path in old:
        age(path, 0.05)
    return old, young


@pytest.mark.parametrize("way", ["a build", "gc"])
def test_half_written_files_go_when_nobody_can_be_writing_them(store: Store, way: str) -> None:
    old, young = leave(store)
    whole = store.root / "workspaces" / "e.json"
    whole.write_text("{}")
    age(whole, 90)
    if way == "gc":
        gc.collect(store, MONTH, delete=True)
    else:
        preflight.sweep(store)
    assert [path.exists() for path in (*old, *young, whole)] == [False] * 4 + [True] * 5


def test_quarantine_is_evidence_for_as_long_as_results_are_kept(
    store: Store, tmp_path: Path
) -> None:
    (store.root / "quarantine/aa").write_bytes(b"bad")
    age(store.root / "quarantine/aa", 90)
    # It was moved there just now, however old it is.
    assert gc.collect(store, MONTH, delete=True).files == {}
    assert len(gc.collect(store, Limits(-1), delete=True).files) == 1


@pytest.mark.scenario
def test_downloads_go_by_age_unless_a_needed_result_refers_to_them(
    store: Store, tmp_path: Path
) -> None:
    for name in ("used", "old", "young"):
        folder = store.root / "downloads" / name
        (folder / "files").mkdir(parents=True)
        (folder / "files/rows.jsonl").write_bytes(b"x" * 10)
        if name != "young":
            age(folder, 90)
    key = of_bytes("a model")
    reference = str(store.root / "downloads/used/files")
    Traces(store).put(Trace(key, "model", (), {"": key}, reference=reference))
    register(store, tmp_path, key)
    sweep = gc.collect(store, MONTH, delete=True)
    assert {path.name: size for path, size in sweep.files.items()} == {"old": 10}
    assert sorted(p.name for p in (store.root / "downloads").iterdir()) == ["used", "young"]


def test_gc_shows_targets_and_deletes_what_no_recipe_has(chain: Place) -> None:
    assert chain.run().code == 0
    (chain.folder / "in.bin").write_bytes(content(1))
    assert chain.run().code == 0
    assert chain.run("gc").out.splitlines()[-1].startswith("0 B of ")
    shown = chain.run("gc", "--older-than", "0d").out.splitlines()
    assert sorted(line.split()[2:] for line in shown[:3]) == [
        [name, "today", str(chain.recipe)] for name in ("a", "b", "first")
    ]
    assert shown[-1] == "`olivebuild gc --delete` deletes it"
    data = json.loads(chain.run("gc", "--older-than", "0d", "--delete", "--json").out)
    assert sorted(data) == [
        "building",
        "deleted",
        "freed",
        "limit",
        "needed",
        "results",
        "size",
        "unowned",
    ]
    assert sorted(r["target"] for r in data["results"]) == ["a", "b", "first"]
    assert data["freed"] == sum(r["size"] for r in data["results"]) > 300_000
    done = chain.build()
    assert (done.ran, chain.everything()) == ([], everything(chain, 1))
    (chain.folder / "in.bin").write_bytes(content(0))
    assert chain.build().ran == ["first", "a", "b"]


@pytest.mark.scenario
def test_the_recipes_limit_holds_unless_another_is_given(chain: Place) -> None:
    chain.recipe.write_text(chain.recipe.read_text() + "cache: {max_size: 500KB}\n")
    for seed in range(3):
        (chain.folder / "in.bin").write_bytes(content(seed))
        assert chain.run().code == 0
    assert json.loads(chain.run("gc", "--json").out)["limit"] == 500_000
    assert json.loads(chain.run("gc", "--json", "--max-size", "1GB").out)["results"] == []
    assert len(json.loads(chain.run("gc", "--json", "--delete").out)["results"]) == 6
    assert sum(p.stat().st_size for p in chain.cache.glob("blobs/??/*")) < 500_000
    assert chain.build().ran == []
    chain.edit("500KB", "lots")
    done = chain.run("gc")
    assert done.code == 2
    assert "olivebuild.yaml:6:9: error: cache.max_size: 'lots' is no size" in done.err
