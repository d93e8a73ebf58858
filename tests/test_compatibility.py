"""What the code before the rooms has written is of use to the code of today.

The fixture's targets are commands and a model that lies where it is, whose keys hold no versions of
libraries and nothing of the machine, so that the keys are the same wherever the tests run. How it
was made is written in its README.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from olivebuild.metrics.records import read_metrics
from tests.conftest import Place

FIXTURE = Path(__file__).parent / "fixtures/before_rooms"
BENCH = """\
  bench:
    kind: benchmark
    models: [base, adapter, merged, onnx-int4]
    data: [tone]
    baseline: tone
    latency: {rounds: 1}
    gates: ["accuracy >= 0"]
"""


@pytest.fixture
def old(place: Place) -> Place:
    """A fresh workspace, and a copy of the cache that earlier code filled."""
    shutil.copytree(FIXTURE / "workspace", place.folder, dirs_exist_ok=True)
    shutil.copytree(FIXTURE / "blobs", place.cache / "blobs")
    return place


def test_results_of_earlier_code_are_restored(old: Place) -> None:
    end = old.build().end
    assert end["ran"] == []
    assert end["restored"] == ["first", "second", "judged"]
    assert old.everything() == {
        "first/text.txt": b"one line\nand another\n",
        "judged/text.txt": b"one 1\nanother 1\n",
        "second/figures.json": b'{"words": 2, "tensors": 1}',
        "second/text.txt": b"one 1\nanother 1\n",
    }
    assert old.build().ran == []


def test_the_first_build_after_an_edit_runs_what_it_must(old: Place) -> None:
    (old.folder / "words.json").write_text('["line"]\n')
    end = old.build().end
    assert end["ran"] == ["second", "judged"]
    assert end["restored"] == ["first"]


def keys_of(value: Any, place: str = "") -> set[str]:
    """Return where keys stand in JSON, those below a list as of one element."""
    keys: set[str] = set()
    if isinstance(value, dict):
        for key, below in value.items():
            keys |= {f"{place}.{key}"} | keys_of(below, f"{place}.{key}")
    elif isinstance(value, list):
        for below in value:
            keys |= keys_of(below, f"{place}[]")
    return keys


def test_metrics_of_earlier_code_are_read() -> None:
    text = (FIXTURE / "metrics.json").read_text("utf-8")
    metrics = read_metrics(json.loads(text), "bench")
    assert sorted(metrics.models) == ["adapter", "base", "merged", "onnx-int4"]


@pytest.mark.scenario
def test_metrics_only_gain_keys(copied: Place) -> None:
    copied.recipe.write_text(copied.recipe.read_text() + BENCH)
    assert copied.build("bench").code == 0
    earlier = keys_of(json.loads((FIXTURE / "metrics.json").read_text("utf-8")))
    assert earlier - keys_of(json.loads(copied.built("bench", "metrics.json"))) == set()
    assert len(earlier) > 50
