"""Tensors of models as a GGUF file has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import quants
from safetensors.numpy import save_file

from olivebuild.core.errors import InputError
from olivebuild.ml.gguf.tensors import Tensors, interleaved

CONFIG = SimpleNamespace(
    num_hidden_layers=1, tie_word_embeddings=True, num_attention_heads=2, num_key_value_heads=1
)


def weights(**changes: Any) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (6, 32),
        "model.norm.weight": (32,),
        "model.layers.0.input_layernorm.weight": (32,),
        "model.layers.0.self_attn.q_proj.weight": (8, 32),
        "model.layers.0.mlp.down_proj.weight": (32, 48),
    }
    made = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {n: v for n, v in (made | changes).items() if v is not None}


def opened(
    folder: Path,
    kind: str = "f16",
    architecture: str = "llama",
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Tensors:
    save_file(weights(**changes), folder / "model.safetensors")
    return Tensors(folder, architecture, CONFIG, kind)


def data(tensors: Tensors, name: str) -> Any:
    return tensors.data_of(next(p for p in tensors.placed if p.name == name))


def test_names_types_and_order(tmp_path: Path) -> None:
    tensors = opened(tmp_path, "q4_0")
    assert [(p.name, p.type.name) for p in tensors.placed] == [
        ("token_embd.weight", "Q8_0"),
        ("blk.0.attn_norm.weight", "F32"),
        ("blk.0.attn_q.weight", "Q4_0"),
        ("blk.0.ffn_down.weight", "F16"),
        ("output_norm.weight", "F32"),
    ]
    assert tensors.rows == 6
    assert "1 matrices stay in float16" in tensors.notes[0]
    values = quants.dequantize(data(tensors, "token_embd.weight"), tensors.placed[0].type)
    wanted = weights()["model.embed_tokens.weight"]
    assert np.abs(values - wanted).max() <= np.abs(wanted).max() / 127


def test_halves_of_heads_take_turns(tmp_path: Path) -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    wanted = weights()["model.layers.0.self_attn.q_proj.weight"]
    for architecture, order in (("llama", [0, 2, 1, 3, 4, 6, 5, 7]), ("qwen2", list(range(8)))):
        found = data(opened(tmp_path, architecture=architecture), "blk.0.attn_q.weight")
        assert (found == wanted[order].astype(np.float16)).all()


def test_norms_of_gemma_are_one_more(tmp_path: Path) -> None:
    found = data(opened(tmp_path, architecture="gemma"), "output_norm.weight")
    assert (found == weights()["model.norm.weight"] + 1).all()


def test_an_output_layer_that_is_the_embedding_is_left_out(tmp_path: Path) -> None:
    tensors = opened(tmp_path, changes={"lm_head.weight": np.zeros((6, 32), np.float32)})
    assert "output.weight" not in {p.name for p in tensors.placed}


NAN = np.full((32,), np.nan, np.float32)
LARGE = np.full((8, 32), 7e4, np.float32)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"model.layers.0.mlp.router.weight": NAN}, "no place for model.layers.0.mlp.router"),
        ({"model.layers.0.mlp.down_proj.bias": NAN}, "no place for model.layers.0.mlp.down_proj.b"),
        ({"model.layers.3.input_layernorm.weight": NAN}, "no place for model.layers.3"),
        ({"model.norm.weight": None}, "the model has no output_norm.weight"),
        ({"model.norm.weight": np.zeros(32, np.int8)}, "model.norm.weight is I8"),
        ({"transformer.wte.weight": np.zeros((6, 32), np.float32)}, "the same place"),
    ],
)
def test_what_has_no_place_is_refused(tmp_path: Path, changes: dict[str, Any], fact: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(tmp_path, architecture="qwen2", changes=changes)
    assert fact in caught.value.fact


def test_numbers_that_the_type_has_not_are_refused(tmp_path: Path) -> None:
    tensors = opened(tmp_path, changes={"model.norm.weight": NAN})
    with pytest.raises(InputError, match="holds NaN"):
        data(tensors, "output_norm.weight")
    name = "model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(InputError, match="70000, which is too large for F16"):
        data(opened(tmp_path, changes={name: LARGE}), "blk.0.attn_q.weight")
    data(opened(tmp_path, "q8_0", changes={name: LARGE}), "blk.0.attn_q.weight")


def test_layers_are_alike(tmp_path: Path) -> None:
    more = {"model.layers.1.input_layernorm.weight": np.zeros(32, np.float32)}
    save_file(weights(**more), tmp_path / "model.safetensors")
    config = SimpleNamespace(**vars(CONFIG) | {"num_hidden_layers": 2})
    with pytest.raises(InputError, match=r"the model has no blk\.1\.attn_q\.weight"):
        Tensors(tmp_path, "llama", config, "f16")
