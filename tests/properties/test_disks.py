"""Disks that are full or read-only, a cache that is deleted under a build, damage in every place:
one clear error or a mended result.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from olivebuild.cache.store import Store
from olivebuild.core.errors import StoreError
from tests.conftest import Place
from tests.support.mounts import fill, memory_disk, remount

RECIPE = """\
default: b
targets:
  a: {kind: command, run: "cp {inputs.x} {outputs.y}", inputs: {x: first.x}, outputs: {y: y.txt}}
  first: {kind: command, run: "cp in.bin {outputs.x}", files: [in.bin], outputs: {x: x.bin}}
  b: {kind: command, run: "cp -v {inputs.x} {outputs.y}", inputs: {x: a.y}, outputs: {y: y.txt}}
"""
SIZE = 300_000


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


@pytest.fixture
def chain(place: Place) -> Place:
    """Three commands, each copying the one before."""
    place.recipe.write_text(RECIPE)
    (place.folder / "in.bin").write_bytes(content(0))
    return place


def everything(chain: Place, seed: int) -> dict[str, bytes]:
    return {name: content(seed) for name in ("a/y.txt", "b/y.txt", "first/x.bin")}


# Full


@pytest.mark.scenario
@pytest.mark.parametrize("inodes", [12, 18, 26, 34])
@pytest.mark.parametrize("which", ["cache", "folder"])
def test_a_disk_that_has_room_for_no_more_files_loses_nothing(
    chain: Place, which: str, inodes: int
) -> None:
    text, disk = chain.recipe.read_text(), getattr(chain, which)
    with memory_disk(disk, 16 << 20, inodes):
        chain.recipe.write_text(text)
        (chain.folder / "in.bin").write_bytes(content(1))
        done = chain.run()
        # A program's own error is told by its place in the recipe.
        assert done.code == 0 or done.err.count("error:") == 1, done.err
        assert "Traceback" not in done.err
        remount(disk, "nr_inodes=10000")
        assert chain.run().code == 0
        assert chain.everything() == everything(chain, 1)


@pytest.mark.scenario
def test_a_path_that_is_too_long_is_one_error(chain: Place) -> None:
    here, text = os.getcwd(), chain.recipe.read_text()
    os.chdir(chain.folder)
    try:
        while (room := 4079 - len(os.getcwd())) > 0:
            name = "d" * min(200, max(1, room - 1))
            os.mkdir(name)
            os.chdir(name)
        Path(chain.recipe.name).write_text(text)
        Path("in.bin").write_bytes(content(0))
        done = Place(Path(), chain.cache).run()
    finally:
        os.chdir(here)
    assert (done.code, done.err.count("error:")) == (1, 1)
    assert "file name too long\n  hint: move the folder nearer to the root" in done.err


@pytest.mark.scenario
@pytest.mark.parametrize("left", [0, 100_000])
@pytest.mark.parametrize("which", ["cache", "folder"])
def test_a_full_disk_is_one_clear_error_and_keeps_the_old_results(
    chain: Place, which: str, left: int
) -> None:
    text, disk = chain.recipe.read_text(), getattr(chain, which)
    with memory_disk(disk, 8 << 20):
        chain.recipe.write_text(text)
        (chain.folder / "in.bin").write_bytes(content(0))
        assert chain.run().code == 0
        (chain.folder / "in.bin").write_bytes(content(1))
        ballast = fill(disk, left)
        done = chain.run()
        assert done.code == 1
        assert "no room is left on the disk" in done.err
        assert "Traceback" not in done.err
        left_over = chain.everything()
        assert all(left_over[name] in (content(0), content(1)) for name in everything(chain, 0))
        ballast.unlink()
        assert chain.run().code == 0
        assert chain.everything() == everything(chain, 1)
        assert chain.build().ran == []
        assert not list((chain.cache / "tmp").iterdir())


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_point_keeps_what_is_there(chain: Place) -> None:
    text = chain.recipe.read_text()
    with memory_disk(chain.cache, 8 << 20), memory_disk(chain.folder, 8 << 20):
        chain.recipe.write_text(text)
        (chain.folder / "in.bin").write_bytes(content(0))
        assert chain.run().code == 0
        for seed in range(1, 61):
            (chain.folder / "in.bin").write_bytes(content(seed))
            ballast = fill(chain.cache if seed % 2 else chain.folder, seed * 13_000)
            done = chain.run()
            assert (
                done.code == 0 and chain.everything() == everything(chain, seed)
            ) or "no room is left on the disk" in done.err
            ballast.unlink()
            assert chain.run().code == 0
            assert chain.everything() == everything(chain, seed)
            shutil.rmtree(chain.cache / "blobs")


def test_a_blob_that_does_not_fit_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "big.bin").write_bytes(content(0))
    with memory_disk(tmp_path / "cache", 1 << 20):
        store = Store(tmp_path / "cache")
        fill(tmp_path / "cache", 100_000)
        with pytest.raises(StoreError) as caught:
            store.put_folder(tmp_path / "made")
        assert caught.value.fact == "the cache can't be written: no room is left on the disk"
        assert [p for p in (tmp_path / "cache" / "blobs").rglob("*") if p.is_file()] == []
        assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def test_results_on_another_disk_than_what_is_remembered_are_told(chain: Place) -> None:
    with memory_disk(chain.folder / "build", 8 << 20):
        done = chain.run()
        assert done.code == 1
        assert "build/ and .olivebuild/ lie on different disks" in done.err
        assert "OLIVEBUILD_BUILD" in done.err
    with memory_disk(chain.folder.parent / "disk", 8 << 20):
        chain.environment["OLIVEBUILD_BUILD"] = str(chain.folder.parent / "disk")
        assert chain.run().code == 0
        (ours,) = (chain.folder.parent / "disk").iterdir()
        made = {
            p.relative_to(ours).as_posix(): p.read_bytes()
            for p in ours.rglob("*")
            if p.is_file() and ".staging" not in p.parts
        }
        assert made == everything(chain, 0)
        assert chain.build().ran == []


# Read-only


def test_a_read_only_cache_restores_and_says_when_a_step_would_have_to_run(chain: Place) -> None:
    with memory_disk(chain.cache, 8 << 20):
        assert chain.run().code == 0
        remount(chain.cache, "ro")
        shutil.rmtree(chain.folder / "build")
        shutil.rmtree(chain.folder / ".olivebuild")
        done = chain.build()
        assert done.end["restored"] == ["first", "a", "b"]
        assert chain.everything() == everything(chain, 0)
        assert chain.build().end["fresh"] == ["first", "a", "b"]
        (chain.folder / "in.bin").write_bytes(content(1))
        assert chain.verdicts() == {"first": "stale", "a": "waiting", "b": "waiting"}
        done = chain.run()
        assert (done.code, "Traceback" in done.err) == (1, False)
        assert (
            "error: the cache is read-only, and first is not in it and would have to be built"
            in done.err
        )
        assert "hint: what the cache holds can be restored" in done.err
        assert chain.everything() == everything(chain, 0)


def test_a_damaged_blob_of_a_read_only_cache_is_not_served(chain: Place) -> None:
    with memory_disk(chain.cache, 8 << 20):
        assert chain.run().code == 0
        flip(chain.blobs_of("b", "y.txt")[0])
        remount(chain.cache, "ro")
        shutil.rmtree(chain.folder / "build")
        done = chain.run()
        assert done.code == 1
        assert (
            "error: the cache is read-only, and first is not in it and would have to be built"
            in done.err
        )


# Deleted


def test_a_cache_deleted_under_a_build_is_told_and_the_next_build_is_right(chain: Place) -> None:
    (chain.folder / "delete.sh").write_text(
        f'cp "$1" "$2"\ntest -e in.bin.safe || rm -rf "{chain.cache}"\n'
    )
    chain.edit('run: "cp {inputs.x} {outputs.y}"', 'run: "sh delete.sh {inputs.x} {outputs.y}"')
    done = chain.run()
    assert done.code == 1
    assert "error: the cache was deleted while a was being built" in done.err
    (chain.folder / "in.bin.safe").write_text("")
    assert chain.run().code == 0
    assert chain.everything() == everything(chain, 0)
    assert chain.build().ran == []


# Damaged


def flip(path: Path) -> None:
    """One bit, in place, with the time of the last change kept."""
    before = path.stat()
    with open(path, "r+b") as f:
        f.seek(1000)
        byte = f.read(1)[0]
        f.seek(1000)
        f.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["b/y.txt", "first/x.bin"], ids=["final", "intermediate"])
@pytest.mark.parametrize("keep_time", [True, pytest.param(False, marks=pytest.mark.scenario)])
def test_a_flipped_output_is_found_and_restored(chain: Place, name: str, keep_time: bool) -> None:
    assert chain.run().code == 0
    flip(chain.folder / "build" / name)
    if not keep_time:
        os.utime(chain.folder / "build" / name)
    done = chain.build()
    assert (done.ran, done.end["restored"]) == ([], [name.partition("/")[0]])
    assert chain.everything() == everything(chain, 0)


@pytest.mark.scenario
def test_a_cached_object_flipped_twice_is_found_twice(chain: Place) -> None:
    assert chain.run().code == 0
    for _ in range(2):
        flip(chain.blobs_of("b", "y.txt")[0])
        shutil.rmtree(chain.folder / "build")
        done = chain.build()
        assert done.code == 0
        assert done.ran[0] == "first"
        assert chain.everything() == everything(chain, 0)
        assert chain.build().ran == []
    assert [p.name for p in (chain.cache / "quarantine").iterdir()] == [
        p.name for p in chain.blobs_of("b", "y.txt")
    ]


# At once


@pytest.mark.scenario
def test_eight_builds_at_once_run_each_step_once(chain: Place, tmp_path: Path) -> None:
    for name in ("first", "a", "b"):
        (chain.folder / f"{name}.sh").write_text(
            f'echo {name} >> "{tmp_path}/ran"\nsleep 0.3\ncp "$1" "$2"\n'
        )
    for name, words in (("first", "cp in.bin"), ("a", "cp {inputs.x}"), ("b", "cp -v {inputs.x}")):
        chain.edit(f'run: "{words} ', f'run: "sh {name}.sh {words.split()[-1]} ')
    other = Place(tmp_path / "other", chain.cache)
    shutil.copytree(chain.folder, other.folder)
    builds = [place.start() for place in (chain, other) * 4]
    assert [(b.wait(), b.communicate()[1]) for b in builds] == [(0, "")] * 8
    assert (tmp_path / "ran").read_text().split() == ["first", "a", "b"]
    assert chain.everything() == other.everything() == everything(chain, 0)
    assert chain.build().ran == other.build().ran == []
