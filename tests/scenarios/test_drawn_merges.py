"""Drawn configurations of adapters, merged right or refused.

OLIVEBUILD_FUZZ multiplies how many, OLIVEBUILD_SEED draws others.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from tests.scenarios.merging import LIMITS, adapt, merged_in, spreads
from tests.support.tiny_models import make

# The libraries warn of their own future.
pytestmark = [
    pytest.mark.scenario,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]

FUZZ, SEED = (
    int(os.environ.get("OLIVEBUILD_FUZZ", "1")),
    int(os.environ.get("OLIVEBUILD_SEED", "0")),
)


def drawn(draw: random.Random, name: str) -> dict[str, Any]:
    """A LoRA configuration such as people publish."""
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    if name == "phi3":
        modules = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    targets: Any = draw.sample(modules, draw.randint(1, 3)) + draw.choice(
        [[], [], ["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]]
    )
    targets = draw.choice(
        [
            targets,
            targets,
            "all-linear",
            rf".*layers\.[01]\..*({'|'.join(draw.sample(modules, 2))})",
        ]
    )
    options: dict[str, Any] = {
        "target_modules": targets,
        "r": draw.choice([1, 2, 4, 8]),
        "lora_alpha": draw.choice([1, 4, 8]),
    }
    extra: list[dict[str, Any]] = [
        {"use_rslora": True}, {"use_dora": True},
        {"rank_pattern": {"o_proj": 3}, "alpha_pattern": {r"layers\.1\..*": 2}}, {"bias": "all"},
        {"exclude_modules": r".*layers\.0.*"}, {"layers_to_transform": [1]},
        {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["norm"]}, {"lora_bias": True}, {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "gaussian"}, {"fan_in_fan_out": True},
        {"trainable_token_indices": [3, 9, 11]},
        {"target_parameters": ["down_proj.weight"]}, {"ensure_weight_tying": True},
    ]  # fmt: skip
    for more in draw.sample(extra, draw.choice([0, 1, 1, 2])):
        options |= more
    return options


def test_drawn_configurations_are_merged_right_or_refused(
    tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    draw = random.Random(SEED)
    bases: dict[tuple[str, bool, str], Path] = {}
    done = 0
    for number in range(16 * FUZZ):
        key = (
            draw.choice(["llama", "qwen2", "gemma", "phi3"]),
            draw.random() < 0.5,
            draw.choice(["float32", "bfloat16"]),
        )
        name, tied, dtype = key
        if key not in bases:
            bases[key] = tmp_path / "-".join(map(str, key))
            make(name, bases[key], tiny_model, dtype=dtype, tie_word_embeddings=tied)
        options, adapter = drawn(draw, name), tmp_path / f"adapter {number}"
        try:
            adapt(bases[key], adapter, **options)
        except (AssertionError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
            # Nothing that peft could have trained.
            continue
        try:
            merged, _ = merged_in(tmp_path / f"merged {number}", store, bases[key], adapter)
        except InputError:
            continue
        done += 1
        spread, _ = spreads(bases[key], adapter, merged)
        assert spread < LIMITS[dtype], (key, options)
    assert done >= 8 * FUZZ
