"""The structure of a model: the same for other weights, another where what is computed differs."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.formats.structure.model import structure_of
from tests.formats.test_onnx_graphs import graph_file

CONFIG = {"model_type": "llama", "hidden_size": 2, "eos_token_id": 2, "_name_or_path": "a"}


def model(folder: Path, *, values: bytes = b"\0" * 16, shape: int = 4, **config: Any) -> Path:
    """Write a Hugging Face folder with one tensor of `shape` floats."""
    folder.mkdir()
    entry = {"dtype": "F32", "shape": [shape], "data_offsets": [0, 4 * shape]}
    header = json.dumps({"w": entry}).encode()
    data = struct.pack("<Q", len(header)) + header + values.ljust(4 * shape, b"\0")
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def test_other_weights_have_the_same_structure(tmp_path: Path) -> None:
    first = structure_of(model(tmp_path / "a"), "1")
    other = model(tmp_path / "b", values=b"\1" * 16, eos_token_id=5, _name_or_path="b")
    assert structure_of(other, "2") == first
    assert (first.content, first.why) == ("", "")


@pytest.mark.parametrize("change", [{"shape": 5}, {"hidden_size": 4}, {"rope_theta": 1e6}])
def test_another_shape_or_setting_is_another_structure(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    first = structure_of(model(tmp_path / "a"), "1")
    assert structure_of(model(tmp_path / "b", **change), "1") != first


@pytest.mark.parametrize(
    "config",
    [
        {"num_local_experts": 8},
        {"n_routed_experts": 64},
        {"ffn_config": {"moe_num_experts": 16}},
        {"moe_num_experts": [64, 64]},
    ],
)
def test_the_content_of_a_mixture_of_experts_counts(tmp_path: Path, config: dict[str, Any]) -> None:
    first = structure_of(model(tmp_path / "a", **config), "1")
    assert first.why == "it is a mixture of experts"
    assert structure_of(tmp_path / "a", "2") != first


@pytest.mark.parametrize("config", [{"num_experts": 1}, {"expert_bias": True}, {"num_experts": 0}])
def test_one_expert_is_none(tmp_path: Path, config: dict[str, Any]) -> None:
    assert structure_of(model(tmp_path / "a", **config), "1").content == ""


def test_code_of_the_models_own_counts_with_the_content(tmp_path: Path) -> None:
    folder = model(tmp_path / "a")
    (folder / "modeling_x.py").write_text("")
    assert structure_of(folder, "1").content == ""
    trusted = structure_of(folder, "1", trust=True)
    assert (trusted.content, trusted.why) == ("1", "code of its own may run")
    (folder / "modeling_x.py").write_text("pass")
    assert structure_of(folder, "1", trust=True).config != trusted.config


def onnx_folder(folder: Path, change: Any = None, **config: Any) -> Path:
    graph_file(folder, change)
    text = json.dumps(
        {"model": {"eos_token_id": 2, "decoder": {}}, "search": {"top_k": 1}} | config
    )
    (folder / "genai_config.json").write_text(text)
    return folder


def test_an_onnx_folder_has_graph_and_options(tmp_path: Path) -> None:
    first = structure_of(onnx_folder(tmp_path / "a"), "1")
    assert first.runtime == "onnxruntime-genai"
    other = {"model": {"eos_token_id": 7, "decoder": {}}, "search": {"top_k": 50}}
    # A measurement sets these itself.
    assert structure_of(onnx_folder(tmp_path / "b", **other), "2") == first
    threads = {"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}
    assert structure_of(onnx_folder(tmp_path / "c", **threads), "1") != first
    shared = {"search": {"past_present_share_buffer": True}}
    assert structure_of(onnx_folder(tmp_path / "d", **shared), "1") != first


@pytest.mark.parametrize(
    ("operator", "domain", "why"),
    [
        ("QMoE", "com.microsoft", "what QMoE does depends on values"),
        ("NonZero", "", "what NonZero does depends on values"),
        ("Fast", "acme", "what acme.Fast does is not known"),
    ],
)
def test_the_content_counts_where_operators_look_at_values(
    tmp_path: Path, operator: str, domain: str, why: str
) -> None:
    def add(model: Any, helper: Any) -> None:
        model.graph.node.append(helper.make_node(operator, ["y"], ["z"], domain=domain))

    found = structure_of(onnx_folder(tmp_path / "a", add), "1")
    assert (found.content, found.why) == ("1", why)


def test_what_is_no_graph_is_told(tmp_path: Path) -> None:
    (onnx_folder(tmp_path / "a") / "model.onnx").write_bytes(b"\x0a\xff")
    with pytest.raises(InputError, match=r"model\.onnx can't be read") as caught:
        structure_of(tmp_path / "a", "1")
    assert caught.value.where
