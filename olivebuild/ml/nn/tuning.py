"""What a training uses of the machine at hand: layout, tokens at a time, compiled layers.

It says what it chose; none of it is in a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.data.token_shards import lengths_of
from olivebuild.ml.nn import flash_attention
from olivebuild.ml.nn.compile import compile_layers, suit_compiler
from olivebuild.ml.nn.forward import Setup, checkpoint_layers, takes_packed
from olivebuild.ml.nn.lora import join_products
from olivebuild.ml.nn.reach import windows_of

if TYPE_CHECKING:
    from olivebuild.api.job import Job

CPU_TOKENS = 4096
MOST_TOKENS = 1 << 15
FEWEST_TOKENS = 1 << 10
SPARE = 0.8
LONG, MOST = 512, 0.5
"""Rows of this length take so long to attend to, and this share of rows is so many, that a kernel
of their own pays.
"""
WORTH_COMPILING = 5e15
"""Tokens times parameters from which on compiled layers win back the time that compiling takes."""


def prepare(
    job: Job,
    model: Any,
    rows: Sequence[Tokens],
    tokens: int,
    device: torch.device,
    *,
    dropout: float,
    plain: bool,
) -> Setup:
    """Choose how `tokens` tokens are trained on, and change the model's layers for it where that
    pays.
    """
    setup = takes_packed(model, rows, device, job.note)
    setup.share = setup.packed and dropout == 0 and not plain
    setup.limit, said = CPU_TOKENS, []
    lengths = lengths_of(rows)
    longest = int(lengths.max())
    if device.type == "cuda":
        free = (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
        fitting = int(free * SPARE / bytes_a_token(model))
        setup.limit = min(MOST_TOKENS, max(fitting, longest, FEWEST_TOKENS))
        if fitting < longest:
            setup.twice = True
            checkpoint_layers(model)
            said.append("layers computed twice to save memory")
    setup.usual = usual_length(lengths) if setup.packed and not setup.grouped else 0
    if (
        not plain
        and device.type == "cuda"
        and tokens * sum(p.numel() for p in model.parameters()) > WORTH_COMPILING
    ):
        setup.compiled = True
        alike = int(lengths.min()) == longest
        # The length of the row that a token is in, on an average. In short rows the kernel is no
        # faster, or slower.
        long = (lengths.astype(float) ** 2).sum() >= LONG * lengths.sum()
        setup.flash = (
            long
            and setup.packed
            and not setup.grouped
            and _takes_flash(job, model, device, longest, packed=not setup.usual)
        )
        suit_compiler(model)
        compile_layers(model, alike=alike)
        said.append("compiled layers, FlashAttention 4" if setup.flash else "compiled layers")
    elif not plain:
        join_products(model)
    said.insert(
        0, f"{'packed' if setup.packed else 'padded'} rows, up to {setup.limit} tokens at a time"
    )
    if setup.share:
        said.insert(1, "beginnings that rows share once")
    job.note("; ".join(said))
    return setup


def _takes_flash(job: Job, model: Any, device: torch.device, longest: int, *, packed: bool) -> bool:
    """Whether FlashAttention 4 is installed and attends to this model's rows as torch does."""
    if not flash_attention.installed():
        return False
    config = model.config.get_text_config()
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Layers may differ in their windows; a model may have layers that have none beside them.
    backs = [window - 1 for window in windows_of(model) if window < longest - 1]
    faults = (
        flash_attention.fault(
            config.num_attention_heads,
            config.num_key_value_heads,
            dim,
            model.dtype,
            device,
            back=back,
            packed=packed,
        )
        for back in (*backs, None)
    )
    fault = next(filter(None, faults), "")
    if fault:
        job.note(f"FlashAttention 4 can't be used: {fault}")
    return not fault


def usual_length(lengths: np.ndarray) -> int:
    """The longest rows' length, if most rows have it, as when texts are cut; else 0.

    The kernel for it is made anew for each length.
    """
    longest = int(lengths.max())
    return longest if longest >= LONG and (lengths == longest).mean() >= MOST else 0


def bytes_a_token(model: Any) -> int:
    """About what a layer keeps of a token until its gradient is taken, for all layers."""
    config = model.config.get_text_config()
    inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
    return int(
        (10 * config.hidden_size + 5 * inner) * config.num_hidden_layers * model.dtype.itemsize
    )
