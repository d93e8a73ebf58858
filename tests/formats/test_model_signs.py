"""Signs that a folder holds another kind of model than one would take it for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.core import hashing
from olivebuild.formats.model_signs import (
    classes_of_transformers,
    made_for_something_else,
    methods_of_transformers,
    quantised_in,
)
from tests.formats.test_safetensors import write


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "quantised"),
    [
        ("model.q_proj.weight", "F32", [1, 2], False),
        ("model.q_proj.qweight", "F32", [1, 2], True),
        ("model.q_proj.weight_scale_inv", "F32", [1, 2], True),
        ("model.q_proj.weight", "I8", [2, 4], True),
        ("model.q_proj.weight", "F8_E4M3", [8], True),
        # Masks are of whole numbers in any model.
        ("model.attn.bias", "U8", [2, 4], False),
        ("model.attn.weight", "U8", [1, 2, 4], False),
    ],
)
def test_tensors_that_only_a_quantised_model_has(
    tmp_path: Path, name: str, dtype: str, shape: list[int], quantised: bool
) -> None:
    file = tmp_path / "m.safetensors"
    write(file, {"a.norm.weight": ("F32", [2], bytes(8)), name: (dtype, shape, bytes(8))})
    assert quantised_in(file, hashing.ignore_progress) == (name if quantised else "")


def test_the_installed_transformers_is_read() -> None:
    assert {"gptq", "awq", "bitsandbytes"} <= methods_of_transformers()
    assert {"LlamaForCausalLM", "Phi3ForCausalLM"} <= classes_of_transformers()
    assert "BertModel" not in classes_of_transformers()


@pytest.mark.parametrize(
    ("config", "fails"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, None),
        ({"architectures": ["OwnForCausalLM"]}, None),
        ({"architectures": ["LlamaForSequenceClassification"]}, True),
        ({"architectures": ["MistralModel"]}, True),
        # With tied embeddings the head is there all the same.
        ({"architectures": ["Gemma3TextModel"], "tie_word_embeddings": True}, False),
        ({"architectures": ["GPT2Model"], "model_type": "gpt2"}, False),
    ],
)
def test_a_model_that_was_saved_without_the_head(
    config: dict[str, Any], fails: bool | None
) -> None:
    finding = made_for_something_else(config)
    assert (finding.fails if finding else None) is fails
