"""Places of tensors in the data files of a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from olivebuild.formats.structure.onnx_tensors import tensors_of


def test_places_are_those_of_onnx(tmp_path: Path) -> None:
    tensors = [
        numpy_helper.from_array(np.full((3, number + 1), number, np.float32), f"w{number}")
        for number in range(5)
    ]
    graph = helper.make_model(helper.make_graph([], "g", [], [], tensors))
    file = tmp_path / "model.onnx"
    onnx.save_model(
        graph, str(file), save_as_external_data=True, location="w.data", size_threshold=0
    )
    data = (tmp_path / "w.data").read_bytes()
    places = list(tensors_of(file))
    assert {location for location, *_ in places} == {"w.data"}
    for number, (_, offset, length) in enumerate(places):
        values = np.frombuffer(data[offset : offset + length], np.float32)
        assert values.tolist() == [number] * 3 * (number + 1)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\x05\x2a\x7f"])
def test_what_is_no_graph_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"empty|wire type|longer|not end"):
        list(tensors_of(file))
