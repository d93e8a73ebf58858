"""Plausibility of the numbers in a model's small files.

One that can't makes a loader build modules for hours, or fail far from its cause.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivebuild.core import hashing
from olivebuild.formats.model_config import ModelFinding
from olivebuild.formats.safetensors import tensors_of

COUNTS = re.compile(r"(num|n|encoder|decoder)_(\w+_)?(layers?|blocks?|experts?|labels)")
"""How configurations name what modules are made by."""
DIMENSIONS = re.compile(
    r"(\w+_)?(hidden|intermediate|embedding|embed|ffn)_(size|dim)|(\w+_)?head_dim|d_(model|kv|ff)|"
    r"n_(embd|inner|heads?)|num_(attention|key_value)_heads"
)
"""How they name what tensors are as long as."""
CONTEXTS = re.compile(
    r"(original_)?max_(position_embeddings|seq_len|sequence_length)|n_(positions|ctx)"
)
LONG = 1 << 16
"""No dimension below that is worth reading the weights for."""
PACKED = 16
"""So many numbers at most lie in one of a quantised tensor (2 bits of 32)."""
LONGEST_CONTEXT = 1 << 27
"""Tokens. Converters make tables as long; the longest that is published is some 10 million."""
FEW = 1000
"""So many modules are made in a moment, whether or not there are weights for them."""
NUMBERS: dict[str, tuple[str, ...]] = {
    "config.json": ("bos_token_id", "eos_token_id", "pad_token_id"),
    "generation_config.json": ("bos_token_id", "eos_token_id", "pad_token_id"),
    "tokenizer_config.json": ("model_max_length",),
}
"""Small file -> its fields that are numbers, or lists of them."""


def impossible_size(
    config: Mapping[str, Any], sizes: Callable[[], tuple[int, int]]
) -> ModelFinding | None:
    """A count that no weights of this model stand for.

    `sizes`: how many tensors there are, and their largest dimension; asked only if need be.

    Each layer has a tensor at least; experts may share one, and are then a dimension of it.
    """
    for name, value in _numbers(config):
        if fact := _impossible(name, value, sizes):
            hint = "is config.json that of these weights?"
            return ModelFinding(
                f"config.json says {name} {value!s:.40}, {fact}", hint, of_model=True
            )
    return None


def _impossible(name: str, value: int, sizes: Callable[[], tuple[int, int]]) -> str:
    """Why a number of config.json can't be true of the weights; empty where it can."""
    if COUNTS.fullmatch(name) and value > FEW and value > sum(sizes()):
        return f"and the weights are {sizes()[0]} tensors"
    if DIMENSIONS.fullmatch(name) and value > LONG and value > sizes()[1] * PACKED:
        return f"and no dimension of the weights is longer than {sizes()[1]}"
    if CONTEXTS.fullmatch(name) and value > LONGEST_CONTEXT:
        return "which is more tokens than any model takes"
    return ""


def _numbers(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, int]]:
    """The whole numbers of a configuration, and of those in it."""
    for name, value in config.items():
        if isinstance(value, dict) and depth < 4:
            yield from _numbers(value, depth + 1)
        elif isinstance(value, int):
            yield str(name), value


def sizes_of(shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return how many tensors have these shapes, and their largest dimension."""
    return len(shapes), max((n for shape in shapes for n in shape), default=0)


def sizes_in(file: Path, _count: hashing.OnBytes) -> str:
    return "{} {}".format(*sizes_of([t.shape for t in tensors_of(file)]))


def not_numbers(file: str, data: Mapping[str, Any]) -> ModelFinding | None:
    """A field of a small file that should be a number, or a list of numbers, and is not."""
    for name in NUMBERS.get(file, ()):
        value = data.get(name)
        if any(
            not _is_number(one)
            for one in (
                value if isinstance(value, list) and file != "tokenizer_config.json" else [value]
            )
        ):
            return ModelFinding(
                f"{file} says {name} {value!r:.60}, which is not a number",
                "is the file the one that the model came with?",
                of_model=True,
            )
    return None


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
