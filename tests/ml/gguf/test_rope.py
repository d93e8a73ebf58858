"""Rotary embeddings in GGUF."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from olivebuild.core.errors import InputError
from olivebuild.ml.gguf.rope import Rope
from tests.support.gguf_models import LLAMA3, LONGROPE, YARN


def config(parameters: dict[str, Any], **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "rope_parameters": parameters,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    return SimpleNamespace(**fields | changes)


def written(architecture: str, parameters: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the header says without the architecture's name, and the factors."""
    writer = GGUFWriter(None, architecture)
    factors = Rope(architecture, config(parameters), "there").write(writer)
    said = {k.partition(".")[2]: v.value for k, v in writer.kv_data[0].items()}
    return said, factors


def test_plain_ones() -> None:
    said, factors = written("llama", {"rope_type": "default", "rope_theta": 1e4})
    assert (said["rope.dimension_count"], said["rope.freq_base"], factors) == (16, 1e4, {})


def test_factors_of_llama_3_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    _, factors = written("llama", LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            max_position_embeddings=512,
            rope_parameters=LLAMA3,
        ),
        "cpu",
    )
    plain = 1e4 ** -(np.arange(0, 16, 2) / 16)
    assert np.allclose(plain / factors["rope_freqs.weight"], scaled.numpy(), rtol=1e-5)


def test_yarn_and_longrope() -> None:
    said, factors = written("qwen3", YARN)
    assert said["rope.scaling.type"] == "yarn"
    assert (said["rope.scaling.factor"], said["rope.scaling.original_context_length"]) == (4, 64)
    assert factors == {}
    said, factors = written("phi3", LONGROPE)
    assert said["rope.dimension_count"] == 12
    assert said["rope.scaling.attn_factor"] == pytest.approx((1 + np.log(2) / np.log(256)) ** 0.5)
    assert sorted(factors) == ["rope_factors_long.weight", "rope_factors_short.weight"]
    rope = Rope("phi3", config(LONGROPE), "there")
    assert rope.exact_context == 256
    assert "context of 256" in rope.note


def test_local_layers_have_a_base_of_their_own() -> None:
    both = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    said, _ = written("gemma3", both)
    assert (said["rope.freq_base"], said["rope.freq_base_swa"]) == (1e6, 1e4)
    assert said["rope.scaling.factor"] == 8


@pytest.mark.parametrize(
    ("architecture", "parameters", "fact"),
    [
        ("llama", {"rope_type": "dynamic"}, "rope_type dynamic"),
        ("qwen2", LLAMA3, "rope_type llama3"),
        ("gemma2", YARN, "rope_type yarn"),
        ("phi3", {"rope_type": "linear"}, "rope_type linear"),
        ("qwen3", YARN | {"attention_factor": 1.5}, "attention_factor of yarn"),
        ("qwen3", YARN | {"truncate": False}, "truncate: false of yarn"),
        (
            "gemma3",
            {
                "full_attention": {"rope_theta": 1e4},
                "sliding_attention": {"rope_type": "linear"},
            },
            "scaling of local layers",
        ),
    ],
)
def test_what_llama_cpp_has_not_is_refused(
    architecture: str, parameters: dict[str, Any], fact: str
) -> None:
    with pytest.raises(InputError) as caught:
        written(architecture, {"rope_theta": 1e4} | parameters)
    assert f"llama.cpp has no {fact} for the architecture {architecture}" in caught.value.fact


def test_too_few_factors_are_an_error() -> None:
    with pytest.raises(InputError, match="short_factor has 2 numbers, and 6 pairs"):
        written("phi3", LONGROPE | {"short_factor": [1.0, 2.0]})
