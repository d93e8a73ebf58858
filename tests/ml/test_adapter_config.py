"""What an adapter's configuration and the names of its tensors say about merging it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.ml.weights.adapter_config import PREFIX, why_unmergeable, why_unusable
from olivebuild.ml.weights.view import Weight

Q = "model.layers.0.self_attn.q_proj"


def weights(**shapes: tuple[int, ...]) -> list[Weight]:
    place = ByteRange(Path("/none"), 0, 0)
    return [Weight(name, "F32", shape, "", 0, place) for name, shape in shapes.items()]


BASE = {w.name: w for w in weights(**{f"{Q}.weight": (8, 8), "model.embed_tokens.weight": (10, 8)})}
LORA = {f"{PREFIX}{Q}.lora_A.weight": (2, 8), f"{PREFIX}{Q}.lora_B.weight": (8, 2)}


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        ({"peft_type": "LORA"}, ""),
        ({"peft_type": "LORA", "init_lora_weights": "PiSSA"}, ""),
        ({"peft_type": "VERA"}, ""),
        ({"peft_type": "PROMPT_TUNING"}, "a PROMPT_TUNING adapter can't be merged"),
        ({}, "a None adapter can't be merged"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa_niter_16"}, "the adapter starts from"),
        ({"peft_type": "LORA", "init_lora_weights": "corda"}, "training changed the base's"),
        ({"peft_type": "LORA", "init_lora_weights": "new"}, "init_lora_weights: new is not known"),
        ({"peft_type": "LORA", "megatron_config": {"a": 1}}, "the adapter sets megatron_config"),
    ],
)
def test_what_its_own_folder_does_not_tell(config: dict[str, Any], fact: str) -> None:
    refusal = why_unusable(config)
    assert (refusal is not None) == bool(fact)
    assert refusal is None or refusal[0].startswith(fact)


@pytest.mark.parametrize(
    ("config", "tensors", "fact"),
    [
        ({}, LORA, ""),
        ({"alora_invocation_tokens": [1]}, LORA, "acts only after its invocation tokens"),
        ({"layer_replication": [[0, 1]]}, LORA, "repeats layers of the base"),
        ({"use_qalora": True}, LORA, "was trained for a quantised base"),
        ({}, {f"{PREFIX}{Q}.lora_B.bias": (8,)}, f"has a bias for {Q} (lora_bias)"),
        (
            {},
            {f"{PREFIX}model.embed_tokens.weight": (12, 8)},
            "model.embed_tokens has 12 rows, the base's 10: tokens were added",
        ),
        ({}, {f"{PREFIX}_orig_mod.{Q}.lora_A.weight": (2, 8)}, "a compiled model was saved"),
        ({}, {f"{PREFIX}{Q}.lora_A.mine.weight": (2, 8)}, "own name, mine, stands in it"),
        ({}, {f"{Q}.lora_A.weight": (2, 8)}, f"{PREFIX} is missing before it"),
        (
            {},
            {f"{PREFIX}language.{Q}.lora_A.weight": (2, 8)},
            f"has no place in the model; the base has {Q}.weight",
        ),
    ],
)
def test_what_does_not_fit_this_base(
    config: dict[str, Any], tensors: dict[str, tuple[int, ...]], fact: str
) -> None:
    refusal = why_unmergeable(config, weights(**tensors), BASE)
    assert (refusal is not None) == bool(fact)
    assert refusal is None or fact in refusal[0]
