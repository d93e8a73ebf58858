"""Keys and values of tokens that were read, as transformers keeps them, for one row or for many."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

Row = list[tuple[torch.Tensor, torch.Tensor] | None]
"""Keys and values of one row, [1, heads, slots, size] a layer; None for one that keeps none."""


def can_share(cache: Any) -> bool:
    """Return whether a cache is that of attention alone: keys and values, a slot for each token.

    A layer with a window keeps all of them as long as there are fewer than its window has.
    """
    return isinstance(cache, DynamicCache) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def repeated(cache: Any, rows: int) -> Any:
    """Return a copy of the cache of one row, for many that begin alike."""
    many = copy.deepcopy(cache)
    many.batch_repeat_interleave(rows)
    return many


def row_of(cache: Any, row: int) -> Row:
    """Return a copy of what a cache holds of one row."""
    return [
        (layer.keys[row : row + 1].clone(), layer.values[row : row + 1].clone())
        if layer.is_initialized
        else None
        for layer in cache.layers
    ]


def joined(like: Any, rows: Sequence[Row]) -> Any:
    """Return the cache of rows with equally many slots; `like` is one of the same model."""
    cache = copy.deepcopy(like)
    for layer, parts in zip(cache.layers, zip(*rows, strict=True), strict=True):
        kept = [part for part in parts if part is not None]
        if kept:
            layer.keys = torch.cat([keys for keys, _ in kept])
            layer.values = torch.cat([values for _, values in kept])
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = layer.keys.shape[-2]
    return cache
