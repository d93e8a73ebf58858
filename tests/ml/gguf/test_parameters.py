"""What a header says of a model's shape, and what it can't say."""

from __future__ import annotations

from typing import Any

import pytest
from gguf import GGUFWriter

from olivebuild.core.errors import InputError
from olivebuild.ml.gguf.parameters import Parameters
from tests.support.gguf_models import MODELS, SHAPE


def parameters(name: str, **changes: Any) -> Parameters:
    import transformers

    prefix, more = MODELS[name]
    shape = SHAPE | {"vocab_size": 400} | more | changes
    config = getattr(transformers, f"{prefix}Config")(**shape)
    return Parameters(name.partition("-")[0], config, "there")


def written(name: str, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    """Return what the header says without the architecture's name, and the notes."""
    which = parameters(name, **changes)
    writer = GGUFWriter(None, name)
    which.write(writer)
    said = {key.partition(".")[2]: value.value for key, value in writer.kv_data[0].items()}
    return said, which.notes


def test_shapes() -> None:
    said, notes = written("llama")
    assert said["embedding_length"] == 64
    assert said["feed_forward_length"] == 96
    assert said["block_count"] == 2
    assert said["attention.head_count_kv"] == 2
    assert said["attention.key_length"] == 16
    assert said["context_length"] == 256
    assert "attention.sliding_window" not in said
    assert notes == []


def test_gemma() -> None:
    said, _ = written("gemma2")
    assert said["attention.sliding_window"] == 16
    assert said["attn_logit_softcapping"] == 5
    assert said["final_logit_softcapping"] == 3
    said, _ = written("gemma3")
    assert said["rope.freq_base_swa"] == 1e4


@pytest.mark.parametrize(
    ("name", "changes", "context"),
    [
        ("phi3", {"sliding_window": 100}, 100),
        ("phi3", {"sliding_window": 256}, 256),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 90, "max_window_layers": 1}, 90),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 90}, 256),
    ],
)
def test_a_window_that_llama_cpp_has_not_ends_the_context(
    name: str, changes: dict[str, Any], context: int
) -> None:
    said, notes = written(name, **changes)
    assert said["context_length"] == context
    assert bool(notes) == (context < 256)
    assert parameters(name, **changes).context == context


@pytest.mark.parametrize(
    ("name", "changes", "fact"),
    [
        ("llama", {"hidden_act": "gelu"}, "its activation is gelu"),
        ("gemma", {"hidden_activation": "gelu"}, "its activation is gelu"),
        ("gemma", {"tie_word_embeddings": False}, "its output layer is not its embedding"),
        ("gemma2", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar is 64, and not 32"),
        ("gemma2", {"final_logit_softcapping": None}, "it caps no scores or no logits"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "it caps its scores"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "every 2th of its layers"),
        ("phi3", {"hidden_size": 96, "head_dim": 16}, "its heads are 64 wide, the model 96"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(
    name: str, changes: dict[str, Any], fact: str
) -> None:
    with pytest.raises(InputError) as caught:
        written(name, **changes)
    assert fact in caught.value.fact
    assert "config.json" in str(caught.value.where)
