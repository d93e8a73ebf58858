"""Slots in graphs whose products share the rows of weights among them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from olivebuild.core.errors import InputError
from olivebuild.formats.structure import adapter_slots
from olivebuild.ml.onnx.skeleton import Concat, Skeleton, Slot, Source, TensorRecipe, View
from olivebuild.ml.onnx.slots.insertion import insert

K, N = 3, 4
"""Columns of each weight, and its rows."""
Rows = tuple[str, int, int]


def view(rows: Rows) -> View:
    name, start, stop = rows
    source = Source(f"model.layers.0.{name}.weight", "F32", (N, K))
    return View(source, start * K, (stop - start, K), (K, 1))


def joined(*parts: Rows) -> TensorRecipe:
    """Return the recipe of a product's weight [k, n]: rows of weights, one after the other."""
    n = sum(stop - start for _, start, stop in parts)
    node = Concat(tuple(map(view, parts)), 0, "F32", (n, K))
    return TensorRecipe(View(node, 0, (n, K), (K, 1)).transposed, "F32")


def written(folder: Path, products: list[list[Rows]]) -> Skeleton:
    """Write a graph of products x @ w, and return its skeleton."""
    draw = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []
    for i, parts in enumerate(products):
        n = sum(stop - start for _, start, stop in parts)
        weight = draw.normal(size=(K, n)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"], name=f"p{i}"))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, (1, n)))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, K))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], outputs, weights))
    onnx.save(model, folder / "model.onnx")
    (folder / "genai_config.json").write_text(json.dumps({"model": {"vocab_size": 5}}))
    return Skeleton(
        data="model.onnx.data",
        tensors=tuple(joined(*parts) for parts in products),
        slots=tuple(Slot(f"w{i}", 0, 1, i, 0) for i in range(len(products))),
    )


def test_a_module_in_several_products_has_its_slot_in_all_of_them(tmp_path: Path) -> None:
    products: list[list[Rows]] = [
        [("q", 0, N), ("k", 0, 1)],
        [("k", 1, N), ("v", 0, 2)],
        [("v", 2, N)],
        [("o", 0, N)],
    ]
    skeleton = written(tmp_path, products)
    x = np.random.default_rng(1).normal(size=(1, K)).astype(np.float32)
    before = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"x": x})
    insert(tmp_path, skeleton, ["q"], rank=1)
    modules = adapter_slots.read(tmp_path / adapter_slots.NAME).modules
    assert [name.rpartition(".")[2] for name in modules] == ["q", "k", "v"]
    assert set(modules.values()) == {(K, N)}
    draw = np.random.default_rng(2)
    inputs, added = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for module in modules:
        a, b = (draw.normal(size=s).astype(np.float32) for s in ((K, 2), (2, N)))
        inputs |= dict(zip(adapter_slots.inputs_of(module), (a, b), strict=True))
        added[module.rpartition(".")[2]] = x @ a @ b
    after = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"x": x, **inputs})
    for parts, old, new in zip(products, before, after, strict=True):
        zero = np.zeros((1, N), np.float32)
        delta = [added.get(name, zero)[:, start:stop] for name, start, stop in parts]
        np.testing.assert_allclose(new, old + np.concatenate(delta, 1), atol=1e-5)


@pytest.mark.parametrize("rows", [(0, 3), (1, N)])
def test_a_module_of_which_rows_are_missing_has_no_slot(
    rows: tuple[int, int], tmp_path: Path
) -> None:
    skeleton = written(tmp_path, [[("q", *rows)], [("o", 0, N)]])
    before = (tmp_path / "model.onnx").read_bytes()
    with pytest.raises(InputError, match=r"layers.0.q has 4 rows") as caught:
        insert(tmp_path, skeleton, "all-linear", rank=1)
    assert f"from {3 if rows[0] == 0 else 0} on" in caught.value.fact
    assert (tmp_path / "model.onnx").read_bytes() == before
    insert(tmp_path, skeleton, ["o"], rank=1)
