"""Adapters that are trained on weights as a conversion will round them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from olivebuild.ml.nn.aware.rounding import merged_and_rounded
from olivebuild.steps.onnx import OnnxFields
from tests.scenarios.steps import by_builder
from tests.scenarios.test_methods import merged_in, trained
from tests.scenarios.training import Stopped, bytes_of, fit, gradient, token_rows
from tests.support.tiny_models import make

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]
MIXED: dict[str, Any] = {
    "block_size": 32,
    "overrides": {"/model/layers.*/attn/qkv_proj/MatMul": "int8"},
}
NODES = {
    "self_attn.q_proj": "attn.qkv_proj",
    "self_attn.k_proj": "attn.qkv_proj",
    "self_attn.v_proj": "attn.qkv_proj",
    "self_attn.o_proj": "attn.o_proj",
}


def converted(folder: Path, store: Store, model: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What the model builder's own quantiser makes of a model: MatMulNBits node -> [n, k]."""
    import onnx
    from onnx import numpy_helper

    fields = OnnxFields.model_validate({"model": "base", **options})
    folder.mkdir()
    for name, data in by_builder(folder / "builder", store, fields, model).items():
        (folder / name).write_bytes(data)
    graph = onnx.load(folder / "model.onnx").graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    weights = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            said = {a.name: a.i for a in node.attribute}
            levels = tensors[node.input[1]]
            if said["bits"] == 4:
                levels = np.stack([levels & 15, levels >> 4], -1)
            rows, scales = said["N"], tensors[node.input[2]].astype(np.float32)
            levels = levels.reshape(rows, -1, said["block_size"]).astype(np.float32)
            values = (levels - 2 ** (said["bits"] - 1)) * scales.reshape(rows, -1, 1)
            weights[node.name.partition("/MatMul")[0].replace("/", ".").strip(".")] = (
                values.reshape(rows, said["K"])
            )
    return weights


def layers_of(model: Any) -> dict[str, Any]:
    """The layers that round with their adapter, by the base's names."""
    return {
        name: module
        for name, module in model.get_base_model().named_modules()
        if "grid" in vars(module)
    }


def seen_by(layer: Any) -> np.ndarray:
    """The weight [n, k] that a layer multiplies by."""
    import torch

    with torch.no_grad():
        none = torch.zeros(1, layer.base_layer.in_features)
        return np.asarray((layer(torch.eye(none.shape[1])) - layer(none)).T.numpy())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3"])
def test_layers_compute_with_what_the_conversion_of_the_merge_holds(
    architecture: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    make(architecture, tmp_path / "base", tiny_model)
    saved, loop = trained(tmp_path, tmp_path / "base", aware=MIXED)
    done, _ = merged_in(tmp_path / "merge", store, tmp_path / "base", saved)
    theirs = converted(tmp_path / "onnx", store, done, MIXED)
    model = loop.runner.forward.model
    layers = layers_of(model)
    assert len(layers) == 2 * (4 if architecture == "phi3" else 7)
    whole: dict[str, list[np.ndarray]] = {}
    for name, layer in layers.items():
        start, _, module = name.rpartition(".layers.")[2].partition(".")
        node = f"model.layers.{start}.{NODES.get(module, module)}"
        node = node.replace("self_attn", "attn")
        whole.setdefault(node, []).append(seen_by(layer))
    for node, parts in whole.items():
        ours = np.concatenate(parts)
        if node in theirs:
            values = theirs[node]
        else:
            half = node.replace("gate_up_proj", "{}_proj")
            values = np.concatenate([theirs[half.format(part)] for part in ("gate", "up")])
        assert np.allclose(ours, values, atol=1e-6), node
        assert not np.allclose(ours, 0)
    head = model.get_base_model().get_output_embeddings().weight
    assert np.allclose(head.numpy(), theirs["lm_head"], atol=1e-6)
    embedding = model.get_base_model().get_input_embeddings().weight
    assert (embedding is head) == (architecture == "qwen2")


def test_the_gradient_is_that_of_the_merged_weight_as_if_it_were_not_rounded(
    llama: Path, tmp_path: Path
) -> None:
    import torch

    loop, _ = fit(tmp_path, llama, token_rows(5, 8), {"steps": 2}, aware=MIXED)
    forward = loop.runner.forward
    loss, ours = gradient(forward.model, forward.setup, token_rows(7, 4))
    for layer in layers_of(forward.model).values():

        def written_out(x: Any, layer: Any = layer) -> Any:
            a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
            scale = layer.scaling["default"]
            whole = layer.base_layer.weight + scale * (b @ a)
            seen = merged_and_rounded(layer.base_layer.weight, a, b, scale, layer.grid).values(
                x.dtype
            )
            return torch.nn.functional.linear(x, whole + (seen - whole).detach())

        layer.forward = written_out
    other, theirs = gradient(forward.model, forward.setup, token_rows(7, 4))
    assert abs(loss - other) < 1e-5
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_a_training_that_was_stopped_ends_with_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    batch, training, aware = token_rows(5, 20), {"steps": 8}, {"precision": "int4"}
    wanted = bytes_of(fit(tmp_path / "quiet", llama, batch, training, aware=aware)[0])
    for step in (3, 6):
        with pytest.raises(Stopped):
            fit(tmp_path / "cache", llama, batch, training, stop_at=step, aware=aware)
    loop, said = fit(tmp_path / "cache", llama, batch, training, aware=aware)
    assert any("resuming from step" in str(e.get("text")) for e in said)
    assert bytes_of(loop) == wanted
    assert bytes_of(fit(tmp_path / "plain", llama, batch, training)[0]) != wanted


def test_a_batch_in_parts_has_the_gradient_of_the_whole(llama: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    loop, _ = fit(tmp_path, llama, token_rows(5, 8), {"steps": 2}, aware={})
    forward = loop.runner.forward
    _, whole = gradient(forward.model, forward.setup, token_rows(7, 6))
    parts = replace(forward.setup, tokens_per_micro_batch=40, recompute=True)
    _, cut = gradient(forward.model, parts, token_rows(7, 6))
    assert float((whole - cut).norm() / whole.norm()) < 1e-4


def test_what_is_not_rounded_tensor_by_tensor_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not known which weights the conversion rounds"):
        fit(
            tmp_path,
            llama,
            token_rows(5, 8),
            {"steps": 1},
            aware={"block_size": 256},
        )
