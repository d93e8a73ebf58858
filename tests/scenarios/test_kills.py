"""Builds killed at random points: build/ and the store never hold a wrong file, and the next build ends right without help."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from olivebuild import digest
from tests.conftest import Place
from tests.tiny_models import make_adapter

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")]

RECIPE = """\
default: onnx-int4
targets:
  base: {kind: model, source: tiny}
  adapter: {kind: adapter, source: adapter}
  merged: {kind: merged, model: base, adapter: adapter}
  onnx-int4: {kind: onnx, model: merged}
"""
ADAPTERS = 2


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, list[dict[str, bytes]]]:
    """A recipe with two adapters to choose from, and what build/onnx-int4 holds for each, built in caches of their own."""
    root = tmp_path_factory.mktemp("kills")
    place = Place(root / "work", root / "cache")
    shutil.copytree(tiny_model, place.folder / "tiny")
    place.recipe.write_text(RECIPE)
    right = []
    for number in range(ADAPTERS):
        make_adapter(place.folder / "tiny", root / f"adapter{number}", seed=number, r=4, target_modules="all-linear")
        choose(place, number)
        clean = Place(place.folder, root / f"cache{number}")
        shutil.rmtree(place.folder / "build", ignore_errors=True)
        assert clean.run().code == 0
        right.append({name: data for name, data in clean.everything().items() if name.startswith("onnx-int4/")})
    shutil.rmtree(place.folder / "build")
    return place, right


def choose(place: Place, number: int) -> None:
    shutil.rmtree(place.folder / "adapter", ignore_errors=True)
    shutil.copytree(place.folder.parent / f"adapter{number}", place.folder / "adapter")


def kill_all(pid: int) -> None:
    """The build and whatever it started, all at once, without a word of warning."""
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("rounds", [pytest.param(3, id="some"), pytest.param(100, id="many", marks=pytest.mark.slow)])
def test_killed_at_random_points_nothing_wrong_is_left(prepared: tuple[Place, list[dict[str, bytes]]], rounds: int) -> None:
    place, right = prepared
    chance = random.Random(rounds)
    assert place.run().code == 0
    for _ in range(rounds):
        number = chance.randrange(ADAPTERS)
        choose(place, number)
        # Without what was remembered of tensors, so that there is something to do each time.
        shutil.rmtree(place.cache / "traces", ignore_errors=True)
        for trace in place.cache.glob("blobs/??/*.trace"):
            trace.unlink()
        process = place.start()
        time.sleep(chance.uniform(0.3, 2.5))
        kill_all(process.pid)
        process.communicate()
        for blob in place.cache.glob("blobs/??/*"):
            assert len(blob.name) != 32 or digest.of_file(blob) == blob.name
        found = {name: data for name, data in place.everything().items() if name.startswith("onnx-int4/")}
        assert found in right
        if chance.random() < 0.3:
            done = place.build()
            assert done.code == 0, done.err
            assert {name: data for name, data in place.everything().items() if name.startswith("onnx-int4/")} == right[number]
    done = place.build()
    assert done.code == 0, done.err
    assert not list((place.cache / "tmp").iterdir())
    assert place.build().ran == []
