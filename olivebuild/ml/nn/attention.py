"""Attention between rows that lie end to end (ml/nn/packing.py).

Registered with transformers under a name of our own.

Models hand it their queries, keys and values of all tokens; no mask is made. On CUDA in half
precision torch's varlen kernel does the work, or, where all rows have one length, the faster one
that scaled_dot_product_attention finds, or FlashAttention 4 (ml/nn/flash_attention.py); elsewhere
that works on padded groups of rows. What it does not know (soft caps, sinks) raises
NotImplementedError.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from transformers import AttentionInterface

from olivebuild.ml.nn import flash_attention
from olivebuild.ml.nn.packing import Rows

NAME = "olivebuild_rows"
KNOWN = {
    "position_ids", "use_cache", "past_key_values", "output_attentions", "output_hidden_states",
    "output_router_logits", "cache_position",
    "is_causal", "return_dict",
}  # fmt: skip
"""Arguments that models pass on and that say nothing here: rows are causal, and nothing is kept."""


SCORES = 1 << 20
"""Attention scores up to which plain products, in float32, are faster on a processor."""
VARLEN: Any = None
with contextlib.suppress(ImportError):
    from torch.nn.attention.varlen import varlen_attn

    VARLEN = varlen_attn
OPTIONS = frozenset(inspect.signature(VARLEN).parameters) if VARLEN else frozenset()
"""What this torch's kernel can be told: it was given a scale and a window by and by."""


def takes_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether torch's kernel is there for this device and number format.

    It is FlashAttention, which begins with Ampere.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    return (
        device.type == "cuda"
        and half
        and bool(OPTIONS)
        and torch.cuda.get_device_capability(device)[0] >= 8
    )


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *,
    rows: Rows | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' attention functions: [1, heads, tokens, dim] -> [1, tokens, heads, dim]."""
    scaling, window, dropout = (
        options.pop("scaling", None),
        options.pop("sliding_window", None),
        options.pop("dropout", 0.0),
    )
    unsupported = [
        name for name, option in options.items() if name not in KNOWN and option is not None
    ]
    if (
        rows is None
        or attention_mask is not None
        or dropout
        or unsupported
        or not getattr(module, "is_causal", True)
    ):
        raise NotImplementedError(
            f"attention with {', '.join(unsupported) or 'a mask, dropout or no rows'} is not laid "
            "out end to end"
        )
    if rows.groups:
        return _grouped(rows, query[0], key[0], value[0], scaling, window), None
    # A row's last token predicts nothing, so it does not matter what it sees.
    if window is not None and window >= rows.longest_keys - 1:
        window = None
    if rows.flash:
        return _by_flash(rows, query, key, value, scaling, window), None
    if rows.alike and window is None:
        return _alike(rows, query, key, value, scaling), None
    return _varlen(rows, query, key, value, scaling, window), None


def _by_flash(
    rows: Rows,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    # However they lie: values that are a slice of a product keep all of it, but copying them takes
    # longer than these kernels leave.
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale, back = scaling or q.shape[-1] ** -0.5, None if window is None else window - 1
    if rows.alike:
        q, k, v = (x.unflatten(0, (rows.alike, rows.longest)) for x in (q, k, v))
        return flash_attention.attention(q, k, v, scale=scale, back=back).flatten(0, 1)[None]
    if rows.keys is not None:
        k, v = k.index_select(0, rows.keys), v.index_select(0, rows.keys)
    return flash_attention.attention(
        q,
        k,
        v,
        scale=scale,
        back=back,
        rows=(rows.starts, rows.key_starts, rows.longest, rows.longest_keys),
    )[None]


def _alike(
    rows: Rows, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    # The output lies as the queries do, so that it need not be laid out anew. Values that are a
    # slice of a product would keep all of it until
    # their gradient is taken.
    query, value = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, value))
    q, k, v = (
        x[0].unflatten(1, (rows.alike, rows.longest)).transpose(0, 1) for x in (query, key, value)
    )
    if (repeat := q.shape[1] // k.shape[1]) > 1:
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1)[None]


def _varlen(
    rows: Rows,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if rows.keys is not None:
        k, v = k.index_select(0, rows.keys), v.index_select(0, rows.keys)
    if (repeat := q.shape[1] // k.shape[1]) > 1:
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    back = -1 if window is None else window - 1
    if back >= 0 and "window_size" not in OPTIONS:
        raise NotImplementedError(
            "attention with a window shorter than the rows is not known to this torch's kernel"
        )
    # A window that ends at 0 is what makes it causal; a row's own tokens are the last of all that
    # it sees.
    options: dict[str, Any] = (
        {"window_size": (back, 0)} if "window_size" in OPTIONS else {"is_causal": True}
    )
    if "scale" in OPTIONS:
        options["scale"] = scaling
    elif scaling is not None:
        q = q * (scaling * q.shape[-1] ** 0.5)
    places = (rows.starts, rows.key_starts, rows.longest, rows.longest_keys)
    out: torch.Tensor = VARLEN(q.contiguous(), k.contiguous(), v.contiguous(), *places, **options)
    return out[None]


def _grouped(
    rows: Rows,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    heads, dim, outputs = query.shape[0], query.shape[-1], []
    # Whole tokens are gathered, and their gradients scattered, in one piece each.
    query, key, value = (x.transpose(0, 1).flatten(1) for x in (query, key, value))
    for group in rows.groups:
        q = (
            query.index_select(0, group.queries.flatten())
            .view(*group.queries.shape, heads, dim)
            .transpose(1, 2)
        )
        k, v = (
            x.index_select(0, group.keys.flatten()).view(*group.keys.shape, -1, dim).transpose(1, 2)
            for x in (key, value)
        )
        mask = group.mask(window)
        if q.device.type == "cpu" and q.dtype == torch.float32 and mask.numel() * heads <= SCORES:
            out = _plain(q, k, v, mask, scaling or dim**-0.5)
        else:
            k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scaling)
        outputs.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
    assert rows.back is not None
    return torch.cat(outputs).index_select(0, rows.back).view(1, -1, heads, dim)


def _plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Of short rows a fused kernel is slower than products that hold all scores at once.

    Queries that share a key's head are one matrix.
    """
    rows, heads, width, dim = query.shape
    shared = rows * key.shape[1]
    q, k, v = (
        query.reshape(shared, -1, dim),
        key.reshape(shared, -1, dim),
        value.reshape(shared, -1, dim),
    )
    scores = (q * scaling).bmm(k.transpose(1, 2)).view(rows, heads, width, -1)
    hidden = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
    return scores.add_(hidden).softmax(-1).view(shared, q.shape[1], -1).bmm(v).view(query.shape)


AttentionInterface.register(NAME, attend)
