"""A cache that others use, too: other users, other versions, and file systems that keep no modes
and no links.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from olivebuild.cache import gc
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Traces
from olivebuild.core import hashing
from olivebuild.core.errors import StoreError
from olivebuild.core.fs import modes
from tests.conftest import Place
from tests.support.mounts import exfat_disk, is_root
from tests.support.require import require

COMMANDS = """\
targets:
  a: {kind: command, run: "cp {inputs.x} {outputs.y}", inputs: {x: first.x}, outputs: {y: y.txt}}
  first: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.bin}}
"""


@pytest.fixture
def pair(place: Place) -> Place:
    place.recipe.write_text(COMMANDS)
    (place.folder / "in.txt").write_text("one")
    return place


# Users


def as_nobody(does: Callable[[], object]) -> str:
    """What another user gets: `does` in a process of `nobody`."""
    require("users", is_root(), "only root can become another user")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            said = repr(does())
        except StoreError as e:
            said = f"{e.where}: {e.fact}; {e.hint}"
        except BaseException as e:  # noqa: BLE001
            # A forked child reports every error to its parent.
            said = f"unexpected: {e!r}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as f:
        return f.read()


@pytest.fixture
def open_cache(pair: Place) -> Place:
    """A result in a cache that all may come to."""
    assert pair.run().code == 0
    for folder in (pair.cache, *pair.cache.parents):
        if (
            folder.stat().st_uid == os.geteuid()
            and folder.is_relative_to(tempfile.gettempdir())
            and folder != Path(tempfile.gettempdir())
        ):
            folder.chmod(0o755)
    return pair


@pytest.mark.parametrize("what", ["blobs", "blobs/*", "traces"])
def test_a_folder_of_the_cache_that_another_user_keeps_to_himself(
    open_cache: Place, what: str
) -> None:
    for folder in open_cache.cache.glob(what):
        folder.chmod(0o700)
    said = as_nobody(lambda: Store(open_cache.cache).read_only)
    assert "the cache can't be read: root lets nobody else read this" in said
    assert f"{open_cache.cache}/{what.partition('/')[0]}" in said
    assert "a umask of 002 for each" in said


@pytest.mark.parametrize("ending", ["trace", "blob"])
def test_a_file_of_the_cache_that_another_user_keeps_to_himself(
    open_cache: Place, ending: str
) -> None:
    """A umask of 077 in folders that were there before: not damage, and no reason to build
    again.
    """
    traces = Traces(Store(open_cache.cache))
    trace = traces.read(traces.keys()[0])
    assert trace
    for file in open_cache.cache.glob("blobs/??/*"):
        if (file.suffix == ".trace") == (ending == "trace"):
            file.chmod(0o600)

    def reads() -> object:
        store = Store(open_cache.cache)
        found = Traces(store).read(trace.key)
        return found and store.manifest(found.manifest)

    assert "the cache can't be read: root lets nobody else read this" in as_nobody(reads)


# Versions


def test_what_a_later_version_has_stored_is_kept(pair: Place) -> None:
    """It says more than this version knows, so that nobody here can tell which blobs it needs."""
    assert pair.run().code == 0
    store = Store(pair.cache)
    key = "ab" * 16
    data = json.loads(Traces(store).file(Traces(store).keys()[0]).read_text().partition("\n")[2])
    text = json.dumps(data | {"key": key, "of_tomorrow": {"x": 1}})
    later = Traces(store).file(key)
    later.parent.mkdir(exist_ok=True)
    later.write_text(f"{hashing.of_bytes(text)}\n{text}")
    assert Traces(store).read(key) is None
    done = pair.run("verify")
    assert (done.code, "0 damaged" in done.out) == (0, True)
    with pytest.raises(StoreError, match="results of a later version"):
        gc.collect(store, gc.Limits(0, None), delete=True)
    later.write_bytes(b"\xff\n" + text.encode())
    assert not Traces(store).is_later(key)
    later.write_text(f"{hashing.of_bytes(text)}\n{text}!")
    assert pair.run("verify").code == 1
    gc.collect(store, gc.Limits(0, None), delete=True)


# File systems


@pytest.mark.scenario
@pytest.mark.parametrize("what", ["all", "cache", "results"])
def test_a_file_system_without_links_and_modes(pair: Place, what: str) -> None:
    disk = pair.folder.parent / "disk"
    with exfat_disk(disk, 32 << 20):
        if what == "all":
            shutil.copytree(pair.folder, disk / "work")
            pair.folder = disk / "work"
        if what != "results":
            pair.cache = disk / "cache"
        else:
            pair.environment["OLIVEBUILD_BUILD"] = str(disk)
        assert modes.kept_in(disk) is False
        assert sorted(pair.build().ran) == ["a", "first"]
        results = next(disk.glob("work-*")) if what == "results" else pair.folder / "build"
        assert (results / "a/y.txt").read_text() == "one"
        assert pair.build().ran == []
        (pair.folder / "in.txt").write_text("two")
        assert pair.run().code == 0
        assert (results / "a/y.txt").read_text() == "two"
        (pair.folder / "in.txt").write_text("one")
        assert pair.build().end["restored"] == ["first", "a"]
        assert (results / "a/y.txt").read_text() == "one"
        done = pair.run("verify")
        assert (done.code, "0 damaged" in done.out) == (0, True)
        assert pair.run("gc", "--delete").code == 0
        assert pair.run("clean").code == 0
        assert not results.exists()


@pytest.mark.scenario
def test_names_that_a_file_system_takes_for_one_are_told_once(pair: Place) -> None:
    write = "echo 1 > $OLIVEBUILD_OUT/x; echo 2 > $OLIVEBUILD_OUT/X"
    pair.recipe.write_text(
        f'targets:\n  a: {{kind: command, shell: true, run: "{write}", outputs: [x]}}\n'
    )
    assert pair.build().ran == ["a"]
    assert {pair.built("a", name) for name in "xX"} == {b"1\n", b"2\n"}
    disk = pair.folder.parent / "disk"
    with exfat_disk(disk, 32 << 20):
        pair.environment["OLIVEBUILD_BUILD"] = str(disk)
        for cache in (pair.cache, pair.folder.parent / "other"):
            pair.cache = cache
            done = pair.build()
            assert done.code == 1
            assert "'X' and 'x' are one file on this file system" in done.err
            assert [e["event"] for e in done.events].count("started") == int(cache.name == "other")
