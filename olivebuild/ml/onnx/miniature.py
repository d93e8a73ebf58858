"""Miniatures: small configurations of a model's architecture.

A miniature has the model's own configuration (rotary settings, windows, norms, factors, head size,
each kind of layer), but few and narrow layers and a small vocabulary. It knows the lengths at which
the model changes what it does (its sliding window, the original context of LongRoPE).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError

from olivebuild.core.errors import first_line

LAYERS, VOCABULARY = 2, 331
"""A prime, which no other size is.

The model builder takes any product with as many outputs as there are tokens for the head.
"""
SHORT = (6, 33)
"""Lengths of prompts that are tried on every model."""
STEPS = 3
"""Tokens that are decoded one by one after each prompt."""
BEYOND = 40
"""Tokens that a prompt goes beyond a boundary; onnxruntime-genai keeps a few more than the window.
"""
FAR = 4096
"""A window or an original context beyond this is tried as one of about `NEAR` tokens.

Only the side of it that a token is on matters.
"""
NEAR = 1024
SIZES = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
}
WIDTHS = {
    "intermediate_size": 2,
    "moe_intermediate_size": 1,
    "shared_expert_intermediate_size": 1,
    "block_ff_dim": 2,
    "block_dim": 1,
    "conv_dim": 1,
    "conv_dim_out": 1,
}
"""Sizes that follow the hidden size, as multiples of it."""


ROPES = ("rope_scaling", "rope_parameters")
TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


REFUSALS = (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    IndexError,
    ZeroDivisionError,
    OSError,
    ImportError,
    RecursionError,
    StrictDataclassError,
)
"""What transformers raises for configurations that it makes no model of."""


class Untried(Exception):
    """An architecture that there can be no miniature of; the text says why."""


@dataclass(frozen=True)
class Miniature:
    """A small configuration of an architecture."""

    config: dict[str, Any]
    boundaries: tuple[tuple[int, int], ...]
    """(the model's, the miniature's) lengths at which the computation changes."""
    by_length: bool
    """The rotary embedding depends on the length of the whole text."""

    @property
    def short(self) -> tuple[int, ...]:
        """Lengths of prompts that reach no boundary."""
        end = min((length for _, length in self.boundaries), default=max(SHORT) + STEPS) - STEPS
        return tuple(sorted({max(1, min(prompt, end)) for prompt in SHORT}))

    @staticmethod
    def of(config: dict[str, Any], block: int) -> Miniature:
        """Return the miniature of what config.json holds; widths are multiples of `block`.

        Raises Untried.
        """
        small = json.loads(json.dumps(config))
        for name in ("quantization_config", "auto_map"):
            small.pop(name, None)
        inner = small["text_config"] if isinstance(small.get("text_config"), dict) else small
        text, shape = _shape_of(config)
        kept = _kinds(text, shape.layers)
        heads, groups = shape.fewest(block)
        width = heads * shape.head_size
        _shrink(inner, width, shape.layers, kept)
        inner |= {
            "num_hidden_layers": kept,
            "hidden_size": width,
            "num_attention_heads": heads,
            "vocab_size": VOCABULARY,
        }
        if "num_key_value_heads" in inner:
            inner["num_key_value_heads"] = groups
        for part in (small, inner):
            for name in [n for n in part if n.endswith("_token_id")]:
                part[name] = TOKEN_IDS.get(name, 3)
        inner |= TOKEN_IDS
        small |= {"torch_dtype": "float32", "dtype": "float32"}
        inner |= {"torch_dtype": "float32", "dtype": "float32"}
        return Miniature(small, *_boundaries(text, inner))


class _Shape(NamedTuple):
    """The sizes of a model's attention."""

    layers: int
    heads: int
    groups: int
    head_size: int

    def fewest(self, block: int) -> tuple[int, int]:
        """Return the fewest heads and groups of the same kind, of a width that `block` divides."""
        if self.groups == self.heads:
            heads, groups = 2, 2
        else:
            heads, groups = (2, 1) if self.groups == 1 else (4, 2)
        while heads * self.head_size % block:
            heads, groups = heads * 2, groups * (2 if self.groups > 1 else 1)
        return heads, groups


def _shape_of(config: dict[str, Any]) -> tuple[Any, _Shape]:
    """Return transformers' text configuration, and the shape in it. Raises Untried."""
    try:
        text = config_from(config).get_text_config()
        heads, hidden = int(text.num_attention_heads), int(text.hidden_size)
        shape = _Shape(
            layers=int(text.num_hidden_layers),
            heads=heads,
            groups=int(getattr(text, "num_key_value_heads", None) or heads),
            head_size=int(getattr(text, "head_dim", None) or hidden // heads),
        )
    except REFUSALS as e:
        raise Untried(f"{type(e).__name__}: {first_line(e, 200)}") from None
    return text, shape


def _shrink(inner: dict[str, Any], width: int, layers: int, kept: int) -> None:
    """Cut lists by layer to `kept` layers, and sizes to those of a small model."""
    for name, value in list(inner.items()):
        if isinstance(value, list) and len(value) == layers and layers > kept:
            inner[name] = value[:kept]
        elif name in SIZES and isinstance(value, int):
            inner[name] = min(value, SIZES[name])
        elif name in WIDTHS and isinstance(value, int):
            inner[name] = width * WIDTHS[name]


def config_from(config: dict[str, Any]) -> Any:
    """Return transformers' configuration of what config.json holds."""
    from transformers import AutoConfig

    options = dict(config)
    return AutoConfig.for_model(options.pop("model_type"), **options)


def _kinds(text: Any, layers: int) -> int:
    """Return how many of the first layers hold one of each kind."""
    lists = [v for v in vars(text).values() if isinstance(v, list) and len(v) == layers]
    kinds = list(zip(*(map(str, v) for v in lists), strict=True)) if lists else []
    wanted = set(kinds)
    return (
        next((n for n in range(LAYERS, layers) if set(kinds[:n]) == wanted), layers)
        if kinds
        else min(LAYERS, layers)
    )


def _boundaries(text: Any, inner: dict[str, Any]) -> tuple[tuple[tuple[int, int], ...], bool]:
    """Return a miniature's boundaries and `by_length`; write far ones nearer into `inner`."""
    context = int(getattr(text, "max_position_embeddings", 0) or 0)
    ropes = list(
        _nested(getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None))
    )
    by_length = any(r.get("rope_type", r.get("type")) in ("longrope", "dynamic") for r in ropes)
    window = getattr(text, "sliding_window", None)
    original = _original_context(text, ropes) if by_length else 0
    lengths = {n for n in (window, original) if isinstance(n, int) and 0 < n < context}
    near = 0
    boundaries: list[tuple[int, int]] = []
    for length in sorted(lengths):
        near = length if length <= FAR else max(NEAR, near + 2 * BEYOND)
        boundaries.append((length, near))
        if near == length:
            continue
        if length == window:
            inner["sliding_window"] = near
        if length == original:
            # The factor of LongRoPE is the share of the two.
            inner["max_position_embeddings"] = max(near * context // original, near + 2 * BEYOND)
            _move_original_context(inner, near)
    return tuple(boundaries), by_length


def _original_context(text: Any, ropes: list[dict[str, Any]]) -> Any:
    """Return the length that a model was first trained for; 0 where none is named."""
    name = "original_max_position_embeddings"
    lengths = (getattr(text, name, None), *(rope.get(name) for rope in ropes))
    return next((length for length in lengths if length), 0)


def _move_original_context(inner: dict[str, Any], length: int) -> None:
    """Write another original context wherever a configuration names it."""
    parts = [inner]
    for name in ROPES:
        parts += _nested(inner.get(name))
    for part in parts:
        if "original_max_position_embeddings" in part:
            part["original_max_position_embeddings"] = length


def _nested(rope: object) -> Iterator[dict[str, Any]]:
    """Yield the settings of rotary positions, and those of each kind of layer."""
    if isinstance(rope, dict):
        yield rope
        yield from (part for part in rope.values() if isinstance(part, dict))
