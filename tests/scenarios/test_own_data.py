"""Data of five shapes: `init`, build, decision, with no edit of the recipe by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.support.own_data import SHAPES

pytestmark = pytest.mark.scenario
# What a latency is to within 5 % decides none of these gates.
IN_CI = ("chat", "tickets")
"""Shapes that each change is tried on; the others take as long, and are slow tests."""
QUICKLY = ("--set", "bench.latency.max_seconds=0.1", "--set", "bench.latency.rounds=2")


@pytest.mark.parametrize(
    "shape",
    [pytest.param(s, marks=() if s in IN_CI else pytest.mark.slow) for s in SHAPES],
)
def test_a_first_build_decides(place: Place, tiny_model: Path, shape: str) -> None:
    shutil.copytree(tiny_model, place.folder / "model")
    make, options = SHAPES[shape]
    done = place.run("init", "--model", "model", "--data", make(place.folder), *options)
    assert done.code == 0, done.err
    divided = re.search(r"^(\d+) rows to train, (\d+) to test; gates: ", done.out, re.M)
    assert divided, done.out
    built = place.build(*QUICKLY)
    assert built.code in (0, 3), built.err
    gates = built.end["gates"]
    assert gates
    # Of random weights accuracy is chance, and the rows tell that from the limit.
    for gate in gates:
        if "accuracy >=" in gate["gate"]:
            assert gate["state"] == "missed", gate
        if gate["gate"].startswith("perplexity"):
            assert gate["state"] == "met", gate
    report = json.loads((place.folder / "build/rows/report.json").read_text())
    counts = [report[side]["rows"] for side in ("train", "test_split")]
    assert counts == [int(divided[1]), int(divided[2])]
