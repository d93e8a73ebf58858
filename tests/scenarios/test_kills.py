"""Builds killed at random points: build/ and the store never hold a wrong file, and the next build
ends right without help.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import RECIPE as PIPELINE
from tests.conftest import Place, rows, write_rows
from tests.support.faults import (
    amount,
    chance_of,
    check_blobs,
    check_no_orphan,
    check_swept,
    kill,
    let_a_day_pass,
)
from tests.support.tiny_models import make_adapter

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

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
def prepared(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Place, list[dict[str, bytes]]]:
    """A recipe with two adapters to choose from, and what build/onnx-int4 holds for each, built in
    caches of their own.
    """
    root = tmp_path_factory.mktemp("kills")
    place = Place(root / "work", root / "cache")
    shutil.copytree(tiny_model, place.folder / "tiny")
    place.recipe.write_text(RECIPE)
    right = []
    for number in range(ADAPTERS):
        make_adapter(
            place.folder / "tiny",
            root / f"adapter{number}",
            seed=number,
            r=4,
            target_modules="all-linear",
        )
        choose(place, number)
        clean = Place(place.folder, root / f"cache{number}")
        shutil.rmtree(place.folder / "build", ignore_errors=True)
        assert clean.run().code == 0
        right.append(
            {
                name: data
                for name, data in clean.everything().items()
                if name.startswith("onnx-int4/")
            }
        )
    shutil.rmtree(place.folder / "build")
    return place, right


def choose(place: Place, number: int) -> None:
    shutil.rmtree(place.folder / "adapter", ignore_errors=True)
    shutil.copytree(place.folder.parent / f"adapter{number}", place.folder / "adapter")


@pytest.mark.parametrize(
    "rounds",
    [pytest.param(3, id="some"), pytest.param(100, id="many", marks=pytest.mark.slow)],
)
def test_killed_at_random_points_nothing_wrong_is_left(
    prepared: tuple[Place, list[dict[str, bytes]]], rounds: int
) -> None:
    place, right = prepared
    chance = chance_of(f"merges {rounds}")
    assert place.run().code == 0
    for _ in range(amount("KILLS", rounds) if rounds > 3 else rounds):
        number = chance.randrange(ADAPTERS)
        choose(place, number)
        # Without what was remembered of tensors, so that there is something to do each time.
        shutil.rmtree(place.cache / "traces", ignore_errors=True)
        for trace in place.cache.glob("blobs/??/*.trace"):
            trace.unlink()
        process = place.start()
        time.sleep(chance.uniform(0.3, 2.5))
        _, children = kill(process.pid)
        process.communicate()
        check_no_orphan(place, children)
        check_blobs(place.cache)
        found = {
            name: data for name, data in place.everything().items() if name.startswith("onnx-int4/")
        }
        assert found in right
        if chance.random() < 0.3:
            done = place.build()
            assert done.code == 0, done.err
            assert {
                name: data
                for name, data in place.everything().items()
                if name.startswith("onnx-int4/")
            } == right[number]
    let_a_day_pass(place)
    done = place.build()
    assert done.code == 0, done.err
    check_swept(place)
    assert place.build().ran == []


LINES = 2
WHOLE = ("tone", "adapter", "onnx-int4")


@pytest.mark.parametrize("rounds", [pytest.param(40, marks=pytest.mark.slow)])
def test_a_whole_pipeline_killed_at_random_points(
    tiny_model: Path, tmp_path: Path, rounds: int
) -> None:
    """From rows to the int4 model: each edit changes a row, and each kill hits the build, its
    worker or both.
    """
    chance, right = chance_of("pipeline"), []
    place = Place(tmp_path / "work", tmp_path / "cache")
    shutil.copytree(tiny_model, place.folder / "tiny")
    place.recipe.write_text(PIPELINE.replace("steps: 4", "steps: 2"))
    # On tiny matrices threads only get in each other's way.
    place.environment["OMP_NUM_THREADS"] = "1"
    for number in range(LINES):
        put_row(place, number)
        shutil.rmtree(place.folder / "build", ignore_errors=True)
        start = time.monotonic()
        assert Place(place.folder, tmp_path / f"cache{number}", place.environment).run().code == 0
        whole = time.monotonic() - start
        right.append(
            {name: data for name, data in place.everything().items() if name.split("/")[0] in WHOLE}
        )
    valid = {(folder, *sorted(part(one, folder).items())) for one in right for folder in WHOLE}
    killed = 0
    while killed < amount("KILLS", rounds):
        number = chance.randrange(LINES)
        put_row(place, number)
        if chance.random() < 0.5:
            shutil.rmtree(place.cache, ignore_errors=True)
        process = place.start()
        time.sleep(chance.uniform(0.2, whole))
        hit, children = kill(process.pid, chance.choice(["parent", "child", "tree"]))
        killed += hit
        _, err = process.communicate()
        assert "Traceback" not in err
        check_no_orphan(place, children)
        check_blobs(place.cache)
        there = place.everything()
        for folder in {name.split("/")[0] for name in there} & {*WHOLE}:
            assert (folder, *sorted(part(there, folder).items())) in valid, folder
        if chance.random() < 0.2:
            finish(place, right[number])
    finish(place, right[number])


def put_row(place: Place, number: int) -> None:
    write_rows(
        place.folder / "data/tone.jsonl",
        [*rows(), {"phrase": f"I am glad about the row {number}", "tone": "joy"}],
    )


def part(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.startswith(f"{folder}/")}


def finish(place: Place, right: dict[str, bytes]) -> None:
    let_a_day_pass(place)
    done = place.build()
    assert done.code == 0, done.err
    assert {
        name: data for name, data in place.everything().items() if name.split("/")[0] in WHOLE
    } == right
    check_swept(place)
    assert place.build().ran == []
