"""int4 models whose weights are rounded by the moments of their inputs: the real steps on a tiny
model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Place

pytestmark = pytest.mark.scenario
BY_GPTQ = "block_size: 32, algorithm: gptq, calibration: tone.train, moments: "


def calibrate(place: Place, moments: str) -> None:
    place.edit("block_size: 32", BY_GPTQ + moments)


def trace_of(place: Place, target: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.run("provenance", target, "--json").out)
    return found


def afresh(place: Place, tmp_path: Path) -> Place:
    """The same folder, built without a cache."""
    folder = tmp_path / "afresh"
    shutil.copytree(place.folder, folder, ignore=shutil.ignore_patterns("build", ".olivebuild"))
    return Place(folder, tmp_path / "empty")


@pytest.mark.parametrize("moments", ["base", "merged"])
def test_an_edited_model_is_that_of_a_build_from_scratch(
    moments: str, copied: Place, tmp_path: Path
) -> None:
    calibrate(copied, moments)
    assert copied.build().ran == ["onnx-int4:moments", "onnx-int4"]
    first = copied.built("onnx-int4", "model.onnx.data")
    copied.edit("lr: 1e-3", "lr: 2e-3")
    ran = ["adapter", "merged", "onnx-int4:moments", "onnx-int4"]
    if moments == "base":
        ran.remove("onnx-int4:moments")
    assert copied.build().ran == ran
    second = copied.built("onnx-int4", "model.onnx.data")
    assert second != first
    scratch = afresh(copied, tmp_path)
    assert scratch.build().code == 0
    assert scratch.built("onnx-int4", "model.onnx.data") == second
    copied.edit("lr: 2e-3", "lr: 1e-3")
    assert copied.build().ran == []
    assert copied.built("onnx-int4", "model.onnx.data") == first


def test_the_layout_is_that_of_rounding_to_the_nearest(copied: Place) -> None:
    graph, data = (copied.built("onnx-int4", n) for n in ("model.onnx", "model.onnx.data"))
    calibrate(copied, "base")
    assert copied.build().code == 0
    assert copied.built("onnx-int4", "model.onnx") == graph
    rounded = copied.built("onnx-int4", "model.onnx.data")
    assert len(rounded) == len(data)
    assert rounded != data


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ("algorithm: gptq", "algorithm: gptq needs `calibration`"),
        ("calibration: tone.train", "`calibration` belongs to algorithm: gptq"),
        ("algorithm: gptq, calibration: nothing.train", "nothing"),
        ("algorithm: gptq, calibration: tone.train, qdq: true", "not known for qdq"),
    ],
)
def test_what_can_not_be_calibrated_is_refused_before_anything_runs(
    options: str, fact: str, copied: Place
) -> None:
    copied.edit("block_size: 32", options)
    done = copied.run("plan")
    assert done.code != 0
    assert fact in done.err
    assert "olivebuild.yaml:" in done.err


def test_8_bits_are_not_calibrated(copied: Place) -> None:
    calibrate(copied, "base")
    copied.edit("precision: int4", "precision: int8")
    assert "algorithm: gptq rounds to 4 bits, and precision is int8" in copied.run("plan").err
