"""Names of an ONNX model's initializers, traced to the float tensors behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from olivebuild.ml.onnx.layout import (  # noqa: E402
    SUFFIXES,
    Holes,
    RecordedInitializer,
    origin_of,
)

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


def test_what_a_quantiser_was_to_fill_is_a_hole_in_the_data_file(tmp_path: Path) -> None:
    import onnx_ir

    holes, arrays = Holes(tmp_path), (np.zeros((300, 20), np.uint8), np.ones(40, np.float32))
    holes.leave(arrays[0], np.ones(3), arrays[1])
    protos = [holes.as_proto(onnx_ir.Tensor(a, name=f"t{i}")) for i, a in enumerate(arrays)]
    assert [holes.as_proto(onnx_ir.Tensor(a, name="t")) for a in arrays] == [None, None]
    plain = onnx_ir.Tensor(np.arange(5.0), name="plain")
    assert holes.as_proto(plain) is None
    data = tmp_path / "data"
    with open(data, "wb") as file:
        for proto in filter(None, protos):
            tensor = onnx_ir.serde.deserialize_tensor(proto, tmp_path)
            assert holes.skip(tensor, file)
            assert file.tell() in (6000, 6160)
    assert data.read_bytes() == bytes(6160)
    assert [tuple(proto.dims) for proto in filter(None, protos)] == [(300, 20), (40,)]
