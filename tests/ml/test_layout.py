"""Names of an ONNX model's initializers, traced to the float tensors behind them."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from olivebuild.ml.onnx.layout import SUFFIXES, RecordedInitializer, origin_of  # noqa: E402

NAME = "model.layers.0.mlp.up_proj.MatMul.weight"
RECORDED = {NAME: RecordedInitializer(torch.zeros(2, 2), torch.float32)}


def test_a_float_tensor_is_its_own_origin() -> None:
    assert origin_of(NAME, RECORDED) == (NAME, None)


def test_each_quantised_part_has_the_float_tensor_behind_it() -> None:
    parts = [origin_of(NAME + suffix, RECORDED) for suffix in SUFFIXES]
    assert {name for name, _ in parts} == {NAME}
    assert [part for _, part in parts] == list(SUFFIXES.values())


def test_a_constant_has_no_origin() -> None:
    assert origin_of("cos_cache", RECORDED) == (None, None)
