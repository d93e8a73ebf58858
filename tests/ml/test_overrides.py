"""`overrides` of an ONNX target: each layer's node by its name, the first word counts, and a shared
embedding stays quantised.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import Problem
from olivebuild.ml.onnx.overrides import expanded, structured
from olivebuild.steps.onnx import STEP, OnnxFields

DOWN, HEAD = "/model/layers.*/mlp/down_proj/MatMul", "/lm_head/MatMul"


def weights(
    folder: Path,
    config: dict[str, Any],
    overrides: dict[str, str],
    precision: str = "int4",
    share: bool | None = None,
) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(config))
    options = structured(folder, overrides, precision, share=share)
    found: dict[str, Any] = options["target_options"]["quant_config"]["weights"]
    return found


def test_a_star_is_every_layer_and_the_first_word_counts() -> None:
    first = DOWN.replace("*", "1")
    assert expanded({first: "int4", DOWN: "int8", HEAD: "int8"}, 3) == {
        first: "int4",
        DOWN.replace("*", "0"): "int8",
        DOWN.replace("*", "2"): "int8",
        HEAD: "int8",
    }


def test_nodes_with_the_bits_of_the_whole_are_not_named(tmp_path: Path) -> None:
    given = {DOWN.replace("*", "0"): "int4", DOWN: "int8"}
    found = weights(tmp_path, {"num_hidden_layers": 2}, given)
    assert found == {"overrides": [{"match": {"name": DOWN.replace("*", "1")}, "type": "int8"}]}
    assert weights(tmp_path, {"num_hidden_layers": 2}, given, "int8") == {
        "overrides": [{"match": {"name": DOWN.replace("*", "0")}, "type": "int4"}]
    }


@pytest.mark.parametrize(
    ("config", "share", "kept"),
    [
        ({"tie_word_embeddings": True}, None, True),
        ({"tie_word_embeddings": True}, False, False),
        ({"tie_word_embeddings": False}, None, False),
        ({"text_config": {"num_hidden_layers": 1, "tie_word_embeddings": True}}, None, True),
    ],
)
def test_an_embedding_that_is_the_head_stays_quantised(
    config: dict[str, Any], share: bool | None, kept: bool, tmp_path: Path
) -> None:
    found = weights(tmp_path, {"num_hidden_layers": 1} | config, {DOWN: "int8"}, share=share)
    assert ("op_types" in found) is kept


def said(**more: Any) -> Problem | None:
    return STEP.check(OnnxFields.model_validate({"model": "m", "overrides": {DOWN: "int8"}} | more))


def test_what_the_builder_would_forget_is_told() -> None:
    assert said() is said(algorithm="k_quant") is None
    for name, value in {
        "mixed_precision": "mixed_layers:int8",
        "nodes_to_exclude": [HEAD],
        "op_types": ["MatMul"],
    }.items():
        assert said(**{name: value}) == Problem(
            f"the model builder takes {name} or overrides, not both", "leave one out"
        )
    assert said(algorithm="k_quant_mixed") == Problem(
        "the model builder takes algorithm: k_quant_mixed or overrides, not both", "leave one out"
    )
