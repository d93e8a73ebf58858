"""`olivebuild verify`: a bit that flips anywhere is found without a build, and mended by --repair
or by the next build.
"""

from __future__ import annotations

import json
import mmap
import shutil
from pathlib import Path

import pytest

from olivebuild.cache import tensor_locations
from olivebuild.cache.memo import Derived
from olivebuild.cache.store import Store
from olivebuild.core.fs.files import stat_of, wait_for_tick
from olivebuild.core.journal import Journal
from olivebuild.planner import verify
from tests.conftest import Place
from tests.formats.test_safetensors import write
from tests.properties.test_disks import chain, content, everything, flip

__all__ = ["chain"]


@pytest.fixture
def built(chain: Place) -> Place:
    assert chain.run().code == 0
    return chain


def found(place: Place, *arguments: str) -> list[tuple[str, str, str | None]]:
    """(sort, name, repair) of each fault."""
    done = place.run("verify", "--json", *arguments)
    data = json.loads(done.out)
    assert done.code == (1 if data["faults"] else 0)
    return [(d["sort"], d["name"], d["repair"]) for d in data["details"]]


def rot(place: Place, path: Path) -> None:
    """A disk that loses a bit changes no time: flip it, and have the workspace believe the file as
    it is now.
    """
    before = list(stat_of(path))
    flip(path)
    journal = Journal(place.folder / ".olivebuild/stats.jsonl")
    for name in journal:
        if name.endswith(str(path)):
            entry = json.loads(journal.get(name) or "")
            assert entry[:5] == before
            journal.set(name, json.dumps([*stat_of(path), entry[5]]).encode())
    journal.save()


def test_all_that_a_build_has_made_is_right(built: Place) -> None:
    done = built.run("verify")
    assert done.code == 0
    # Two manifests, of which one holds for two targets, and the one content of all, which is also
    # that of the input.
    assert done.out.splitlines()[-1].startswith("3 blobs, 3 traces, 3 outputs, 1 input checked (")
    assert done.out.splitlines()[-1].endswith("), 0 damaged")


def test_a_flipped_blob_is_set_aside(built: Place) -> None:
    blob = built.blobs_of("b", "y.txt")[0]
    flip(blob)
    assert found(built) == [("blob", blob.name, None)]
    assert found(built, "--repair") == [("blob", blob.name, "moved to quarantine")]
    assert (found(built), (built.cache / "quarantine" / blob.name).exists()) == ([], True)


def test_what_rots_in_build_is_restored(built: Place) -> None:
    path = built.folder / "build/b/y.txt"
    rot(built, path)
    # A no-op has no way to see it.
    assert built.build().end["fresh"] == ["first", "a", "b"]
    assert found(built) == [("output", "build/b/y.txt", None)]
    assert found(built, "--repair") == [("output", "build/b/y.txt", "restored")]
    assert built.everything() == everything(built, 0)
    assert found(built) == []


@pytest.mark.scenario
def test_what_can_not_be_restored_is_made_by_the_next_build(built: Place) -> None:
    rot(built, built.folder / "build/b/y.txt")
    blob = built.blobs_of("a", "y.txt")[0]
    flip(blob)
    repaired = found(built, "--repair")
    assert repaired == [
        ("blob", blob.name, "moved to quarantine"),
        ("output", "build/b/y.txt", "the next build makes it again"),
    ]
    assert built.build().code == 0
    assert built.everything() == everything(built, 0)
    assert found(built) == []


@pytest.mark.scenario
def test_an_input_that_rots_is_told_and_read_again(built: Place) -> None:
    rot(built, built.folder / "in.bin")
    for _ in range(2):
        # The second time it is answered from the snapshot.
        assert built.build().ran == []
    assert found(built, "--repair") == [("input", "in.bin", "the next build reads it again")]
    assert built.build().ran == ["first", "a", "b"]


def test_what_is_written_through_an_open_mapping_is_found(built: Place) -> None:
    """The system may give a file its new time only when the mapping is written back, so no stat
    tells of it before.
    """
    path = built.folder / "in.bin"
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as mapped:
        mapped[0] ^= 1
        wait_for_tick(built.folder, path.stat().st_mtime_ns)
        assert (built.build().ran, built.build().ran) == (["first", "a", "b"], [])
        before = stat_of(path)
        mapped[1] ^= 1
        if stat_of(path) != before:
            pytest.skip("this file system, or a writing back meanwhile, tells of it at once")
        assert built.build().ran == []
        assert found(built, "--repair") == [("input", "in.bin", "the next build reads it again")]
        assert built.build().ran == ["first", "a", "b"]
        assert built.built("b/y.txt") == path.read_bytes()
        assert found(built) == []


def test_a_damaged_trace_is_written_again_from_the_index(built: Place) -> None:
    trace = min(built.cache.glob("blobs/??/*.trace"))
    before = trace.read_bytes()
    trace.write_bytes(before[:40])
    assert found(built, "--repair") == [("trace", trace.name, "written again")]
    assert (trace.read_bytes(), found(built)) == (before, [])


@pytest.mark.scenario
def test_a_trace_that_no_copy_is_left_of_is_set_aside(built: Place) -> None:
    trace = min(built.cache.glob("blobs/??/*.trace"))
    trace.write_bytes(b"")
    shutil.rmtree(built.cache / "traces")
    assert found(built, "--repair") == [("trace", trace.name, "moved to quarantine")]
    assert found(built) == []
    assert built.build().code == 0


@pytest.mark.scenario
def test_outside_of_a_recipe_the_cache_is_checked(built: Place) -> None:
    built.recipe.unlink()
    flip(built.folder / "build/b/y.txt")
    assert found(built) == []
    blob = max(built.cache.glob("blobs/??/*"), key=lambda p: p.stat().st_size)
    flip(blob)
    assert found(built) == [("blob", blob.name, None)]


def test_what_was_derived_from_a_damaged_blob_is_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    good, bad = store.put_bytes(content(1)), store.put_bytes(content(2))
    Derived(store).put({"one": ((good, 300_000),), "two": ((good, 300_000), (bad, 300_000))})
    flip(store.path(bad))
    faults = verify.run(verify.checks(store, None), lambda done, total: None)
    assert [f.name for f in faults] == [bad]
    assert verify.repair(store, None, faults) == {faults[0]: "moved to quarantine"}
    assert list(Derived(store).rows()) == ["one"]


def test_tensors_that_a_model_no_longer_lends_are_forgotten(tmp_path: Path) -> None:
    store, model = Store(tmp_path / "cache"), tmp_path / "model"
    model.mkdir()
    write(model / "model.safetensors", {"w": ("I8", [300_000], content(1)[:300_000])})
    assert len(tensor_locations.of_folder(store.root, "0" * 32, model)) == 1
    assert verify.run(verify.checks(store, None), lambda done, total: None) == []
    (file,) = (store.root / "places").iterdir()
    data = json.loads(file.read_text())
    flip(model / "model.safetensors")
    data["files"][0][1] = list(stat_of(model / "model.safetensors"))
    file.write_text(json.dumps(data))
    faults = verify.run(verify.checks(store, None), lambda done, total: None)
    assert [(f.kind, f.name) for f in faults] == [(verify.FaultKind.PLACE, file.name)]
    verify.repair(store, None, faults)
    assert not file.exists()


def test_how_far_it_is_is_told_to_the_end(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    for seed in range(4):
        store.put_bytes(content(seed))
    heard: list[tuple[int, int]] = []
    assert (
        verify.run(verify.checks(store, None), lambda done, total: heard.append((done, total)))
        == []
    )
    assert heard[-1] == (1_200_000, 1_200_000)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
