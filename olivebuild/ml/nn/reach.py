"""Reach of attention, and the length up to which positions mean the same.

What a model's configuration says that depends on a row's length.

Some models compute a row otherwise when it is longer than what they were first trained on, and
transformers decides that once for all rows of a forward pass. So rows that are computed otherwise
must not share a pass (`Reach.apart`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from olivebuild.ml.data.examples import Tokens

STATES = ("mamba", "linear_attention", "conv", "recurrent", "rwkv", "moe_mamba", "hybrid")
"""Kinds of layers, as `layer_types` names them, that carry a state from token to token."""


def own_attention(model: Any) -> str:
    """Return the implementation of attention that a model's class has.

    Not all have scaled_dot_product_attention (soft caps, sinks).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "sdpa" if getattr(base, "_supports_sdpa", False) else "eager"


def keeps_state(model: Any) -> str:
    """Why rows end to end would run into one another, whatever attention does; or nothing."""
    config = model.config.get_text_config()
    named = {str(kind) for kind in getattr(config, "layer_types", None) or ()}
    if kinds := sorted(named & set(STATES)):
        return f"it has layers ({', '.join(kinds)}) that carry a state from token to token"
    stateful_module = next(
        (name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv1d)), ""
    )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # A class that can have such layers need not have them here.
    stateful = getattr(base, "_is_stateful", False) and not named
    return (
        f"{stateful_module or type(base).__name__} carries a state from token to token"
        if stateful_module or stateful
        else ""
    )


def windows_of(model: Any) -> list[int]:
    """Return how many tokens back layers see, of those that have a window."""
    config = model.config.get_text_config()
    windows = [
        getattr(config, "sliding_window", None),
        getattr(config, "attention_chunk_size", None),
    ]
    windows += [getattr(module, "sliding_window", None) for module in model.modules()]
    return sorted({window for window in windows if isinstance(window, int) and window > 0})


def ropes_of(config: Any) -> Iterator[dict[str, Any]]:
    """Yield what is said of rotary positions: once, or for each kind of layer."""
    ropes = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [part for part in ropes.values() if isinstance(part, dict)]
    yield from parts or ([ropes] if isinstance(ropes, dict) else [])


def border_of(config: Any) -> tuple[int, bool]:
    """Return the length above which a row's positions mean something else, or 0.

    And whether they go on changing with each token more.
    """
    for rope in ropes_of(config):
        kind = rope.get("rope_type") or rope.get("type")
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if kind in ("longrope", "su"):
            return int(original or config.max_position_embeddings), False
        # With `alpha`, HunYuan's, it is a constant.
        if kind == "dynamic" and not rope.get("alpha"):
            return int(original or config.max_position_embeddings), True
    return 0, False


class Reach:
    """`limits`: lengths at which a model begins to do something else."""

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self.border, self.grows = border_of(config)
        originals = [rope.get("original_max_position_embeddings") for rope in ropes_of(config)]
        self.limits = sorted(
            {
                *windows_of(model),
                *(int(length) for length in originals if length),
                *([self.border] if self.border else []),
            }
        )
        self._ropes = (
            [
                m
                for m in model.modules()
                if hasattr(m, "max_seq_len_cached") and hasattr(m, "original_inv_freq")
            ]
            if self.grows
            else []
        )

    def apart(self, batch: Sequence[Tokens]) -> list[list[Tokens]]:
        """The rows that may share a forward pass, in their order."""
        short = [row for row in batch if not self.border or len(row) <= self.border]
        long = [row for row in batch if self.border and len(row) > self.border]
        return [
            rows
            for rows in (short, *([row] for row in long if self.grows), [] if self.grows else long)
            if rows
        ]

    def begin(self) -> None:
        """Forget how long the longest row was that came before."""
        for rope in self._ropes:
            rope.max_seq_len_cached = rope.original_max_seq_len
            rope.register_buffer("inv_freq", rope.original_inv_freq, persistent=False)
