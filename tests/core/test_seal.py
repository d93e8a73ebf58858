"""What is remembered of a recipe is believed only if this user's own olivebuild wrote it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.core import hashing, seal
from olivebuild.planner.invalidation import graph_stamp
from olivebuild.recipe import graph_cache
from olivebuild.recipe.file import read
from olivebuild.recipe.graph import build_graph
from tests.conftest import Place

RECIPE = 'targets:\n  c: {kind: command, run: "touch %s", outputs: [x]}\n'


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another user's key file, which is not there yet."""
    file = tmp_path / "state" / "key"
    monkeypatch.setattr(seal, "key_file", lambda: file)
    seal._key.cache_clear()
    yield file
    seal._key.cache_clear()


def test_the_key_is_this_user_s_alone_and_stays(key_file: Path) -> None:
    first = seal.seal(b"x")
    assert len(first) == 2 * seal.SEAL_BYTES
    assert seal.seal(b"y") != first
    if os.name == "posix":
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    seal._key.cache_clear()
    assert seal.seal(b"x") == first
    key_file.unlink()
    seal._key.cache_clear()
    assert seal.seal(b"x") != first


@pytest.mark.skipif(sys.platform == "win32", reason="modes say nothing there")
def test_a_key_that_others_may_read_is_replaced(key_file: Path) -> None:
    first = seal.seal(b"x")
    key_file.chmod(0o644)
    seal._key.cache_clear()
    assert seal.seal(b"x") != first
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_without_a_key_nothing_is_believed_or_kept(key_file: Path, place: Place) -> None:
    key_file.parent.write_text("a file where the folder should be")
    assert seal.seal(b"x") == ""
    place.recipe.write_text(RECIPE % "x")
    recipe = read(place.recipe, ())
    stamp = graph_stamp(recipe)
    graph_cache.graph_of(recipe, place.folder, stamp)
    assert not (place.folder / graph_cache.FILE_NAME).exists()
    (place.folder / graph_cache.FILE_NAME).write_text(f"{stamp} \n{{}}")
    assert list(graph_cache.graph_of(recipe, place.folder, stamp).nodes) == ["c"]


def test_a_graph_that_came_with_the_folder_is_not_believed(place: Place) -> None:
    """Its stamp is right, as it is with the same installation, and its body runs a command that the
    recipe lacks.
    """
    place.recipe.write_text(RECIPE % "harmless")
    recipe = read(place.recipe, ())
    state = place.folder / ".olivebuild"
    state.mkdir()
    graph_cache._write(build_graph(recipe), state / graph_cache.FILE_NAME, graph_stamp(recipe))
    good = (state / graph_cache.FILE_NAME).read_bytes()
    head, _, body = good.partition(b"\n")
    evil = body.replace(b"touch harmless", b"touch HARMFUL!")
    stamp = head.split()[0]
    for forged in (
        head + b"\n" + evil,
        stamp + b" " + hashing.of_bytes(evil).encode() + b"\n" + evil,
        stamp + b" \n" + evil,
    ):
        (state / graph_cache.FILE_NAME).write_bytes(forged)
        (node,) = graph_cache.graph_of(recipe, state, graph_stamp(recipe)).nodes.values()
        assert "harmless" in node.fields["run"]
    assert (state / graph_cache.FILE_NAME).read_bytes() == good
