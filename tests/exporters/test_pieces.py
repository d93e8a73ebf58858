"""Tensors in the data files of ONNX graphs, as pieces that deltas copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from olivebuild.exporters import delta, manifest, pieces, standalone
from olivebuild.exporters.manifest import ExportManifest

LAYERS = ("qkv", "o", "gate_up", "down")


def model(folder: Path, seed: int, changed: tuple[str, ...] = LAYERS) -> ExportManifest:
    """Write a graph whose weights lie in one file; those in `changed` are the seed's own."""
    folder.mkdir()
    tensors = []
    for layer in range(6):
        for name in LAYERS:
            draw = np.random.default_rng([layer, len(name), seed if name in changed else 0])
            values = draw.integers(0, 256, 20_000, dtype=np.uint8)
            tensors.append(numpy_helper.from_array(values, f"{layer}.{name}"))
    graph = helper.make_graph([], "g", [], [], tensors)
    onnx.save_model(
        helper.make_model(graph),
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    contents = ExportManifest(
        target="m",
        kind="onnx",
        digest=str(seed),
        version="1",
        files=tuple(manifest.files_of(folder, pieces.of_tensors(folder))),
    )
    (folder / manifest.NAME).write_text(contents.to_text())
    return contents


@pytest.mark.parametrize("with_folder", [True, False])
def test_a_delta_has_the_tensors_that_changed(tmp_path: Path, with_folder: bool) -> None:
    one = model(tmp_path / "one", 1, changed=("qkv", "o"))
    two = model(tmp_path / "two", 2, changed=("qkv", "o"))
    assert max(len(file.runs) for file in one.files) >= 24
    out = tmp_path / "delta"
    out.mkdir()
    text = (tmp_path / "one" / manifest.NAME).read_bytes()
    old = delta.Old(one, text, tmp_path / "one" if with_folder else None)
    size = delta.write(old, two, tmp_path / "two", out)
    # Half of the tensors, and they are noise.
    assert 0.5 < size.delta / size.whole < 0.57
    assert standalone.apply(tmp_path / "one", out)
    data = (tmp_path / "two/model.onnx.data").read_bytes()
    assert (tmp_path / "one/model.onnx.data").read_bytes() == data


def test_what_is_no_graph_has_no_pieces(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 99)
    assert pieces.of_tensors(tmp_path) == {}
    entry = onnx.StringStringEntryProto
    tensor = onnx.TensorProto(
        name="w",
        data_location=onnx.TensorProto.EXTERNAL,
        external_data=[
            entry(key="location", value="../secret"),
            entry(key="length", value="9"),
        ],
    )
    graph = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    (tmp_path.parent / "secret").write_bytes(b"123456789")
    assert pieces.of_tensors(tmp_path) == {}
