"""Tensors of ONNX models that are computed while a merge has their weights in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.ml.onnx.ahead import AheadOfTime
from olivebuild.ml.onnx.skeleton import Concat, Source, TensorRecipe, View
from olivebuild.ml.weights.lora import Change
from olivebuild.ml.weights.view import Weight


def change(name: str) -> Change:
    weight = Weight(name, "F32", (2, 2), "", 16, ByteRange(Path(name), 0, 16))
    return Change(weight, weight, weight, 1.0)


def recipe(*names: str) -> TensorRecipe:
    """A tensor of the rows of these weights."""
    views = tuple(View(Source(name, "F32", (2, 2)), 0, (2, 2), (2, 1)) for name in names)
    rows = 2 * len(names)
    return TensorRecipe(View(Concat(views, 0, "F32", (rows, 2)), 0, (rows, 2), (2, 1)), "F32")


def test_weights_of_one_tensor_are_merged_together() -> None:
    job: Any = SimpleNamespace(store=None)
    model: Any = SimpleNamespace(by_name={})
    batch: Any = None
    recipes = [recipe("q", "k"), recipe("k", "v"), recipe("up"), recipe("other")]
    sink = AheadOfTime(job, batch, None, recipes, model)
    groups = sink.groups([change(name) for name in ("q", "k", "v", "up", "down")])
    assert sorted(sorted(c.weight.name for c in group) for group in groups) == [
        ["down"],
        ["k", "q", "v"],
        ["up"],
    ]
