"""Choice of layout, tokens per micro-batch and compiled layers for the machine at hand.

The choice is reported; none of it is in a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft.tuners.lycoris_utils import LycorisLayer

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.data.token_shards import lengths_of
from olivebuild.ml.nn import flash_attention
from olivebuild.ml.nn.aware.layers import rounding_layers
from olivebuild.ml.nn.compile import compile_layers, suit_compiler
from olivebuild.ml.nn.compile_cache import keep_compiled
from olivebuild.ml.nn.forward import Setup, checkpoint_layers
from olivebuild.ml.nn.frozen import layers as frozen_layers
from olivebuild.ml.nn.frozen.layers import FrozenLayers
from olivebuild.ml.nn.layout_trial import takes_packed
from olivebuild.ml.nn.lora import join_products
from olivebuild.ml.nn.reach import border_of, windows_of

if TYPE_CHECKING:
    from olivebuild.api.job import Job

CPU_TOKENS = 4096
"""Tokens of a micro-batch on a CPU."""
MAX_TOKENS, MIN_TOKENS = 1 << 15, 1 << 10
"""Bounds of the tokens of a micro-batch on a GPU, whatever memory there is."""
MEMORY_SHARE = 0.8
"""Share of the free GPU memory that a micro-batch may take."""
LONG, MOST = 512, 0.5
"""A kernel of their own pays for rows of this length, if this share of all rows has it."""
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
    masked: bool = False,
) -> Setup:
    """Choose the computation of `tokens` tokens, change the model's layers for it, and report it.

    `plain`: nothing is done for speed that may change a bit. `masked`: rows have tokens that are
    not attended to, for which there is no packed layout.
    """
    # Layers whose weights come and go are neither compiled nor captured.
    layers = frozen_layers.of(model)
    setup = takes_packed(model, rows, device, job.note, packed=not masked)
    setup.share_prefixes = setup.packed and dropout == 0 and not plain
    setup.tokens_per_micro_batch = CPU_TOKENS
    lengths = lengths_of(rows)
    if device.type == "cuda":
        _fit_into_memory(setup, model, int(lengths.max()), device, layers)
    if setup.packed and not setup.padded_groups:
        setup.uniform_length = uniform_length(lengths)
    if rounding_layers(model):
        job.note("no compiled layers and no CUDA graphs: weights are rounded between the steps")
    elif not plain:
        parameters = sum(p.numel() for p in model.parameters())
        worth_compiling = tokens * parameters > WORTH_COMPILING and not layers
        if device.type == "cuda" and worth_compiling:
            _compile(job, setup, model, lengths, device)
        else:
            join_products(model)
            setup.cuda_graphs = device.type == "cuda" and not layers and _takes_graphs(setup, model)
    layout = "packed" if setup.packed else "padded"
    compiled = "compiled layers, FlashAttention 4" if setup.flash else "compiled layers"
    texts = {
        f"{layout} rows, up to {setup.tokens_per_micro_batch} tokens at a time": True,
        "beginnings that rows share once": setup.share_prefixes,
        "layers computed twice to save memory": setup.recompute,
        compiled: setup.compiled,
        "small batches as CUDA graphs": setup.cuda_graphs,
    }
    job.note("; ".join(text for text, holds in texts.items() if holds))
    return setup


def _fit_into_memory(
    setup: Setup, model: Any, longest: int, device: torch.device, layers: FrozenLayers | None
) -> None:
    """Choose the tokens of a micro-batch by the free GPU memory; recompute if it is scarce."""
    free = (
        torch.cuda.mem_get_info(device)[0]
        + torch.cuda.memory_reserved(device)
        - torch.cuda.memory_allocated(device)
    )
    kept = bytes_of_changes(model)
    if layers:
        # Pieces come to the device later.
        kept += layers.two_layers + (layers.kept // layers.shares if layers.shares > 1 else 0)
    room = free * MEMORY_SHARE - kept
    fitting = int(room / bytes_per_token(model))
    if fitting < longest:
        setup.recompute = True
        checkpoint_layers(model)
        fitting = int(room / bytes_per_token_twice(model, setup))
        if layers and layers.shares > 1:
            # Processes that share layers can't go on with less where memory runs out.
            fitting = longest
    setup.tokens_per_micro_batch = min(MAX_TOKENS, max(fitting, longest, MIN_TOKENS))


def _takes_graphs(setup: Setup, model: Any) -> bool:
    """Tell whether CUDA graphs may be tried: rows end to end, by torch's kernels, of any length.

    They are not where a model computes rows of some length otherwise than others.
    """
    border, _ = border_of(model.config.get_text_config())
    return setup.packed and not setup.padded_groups and not border


def _compile(job: Job, setup: Setup, model: Any, lengths: np.ndarray, device: torch.device) -> None:
    """Compile the model's layers, and choose FlashAttention 4 where it is faster."""
    setup.compiled = True
    longest = int(lengths.max())
    # The length of the row that a token is in, on average. In short rows the kernel is no faster,
    # or slower.
    long = bool((lengths.astype(float) ** 2).sum() >= LONG * lengths.sum())
    setup.flash = (
        long
        and setup.packed
        and not setup.padded_groups
        and _takes_flash(job, model, device, longest, packed=not setup.uniform_length)
    )
    keep_compiled(job.note, job.out.parent / "compiled", device)
    suit_compiler(model)
    compile_layers(model, alike=int(lengths.min()) == longest)


def _takes_flash(job: Job, model: Any, device: torch.device, longest: int, *, packed: bool) -> bool:
    """Tell whether FlashAttention 4 is installed and attends to this model's rows as torch does."""
    if not flash_attention.installed():
        return False
    config = model.config.get_text_config()
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Layers may differ in their windows, and some may have none.
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


def uniform_length(lengths: np.ndarray) -> int:
    """Return the longest rows' length, if most rows have it, as when texts are cut; else 0.

    The kernel for it is compiled for each length.
    """
    longest = int(lengths.max())
    return longest if longest >= LONG and (lengths == longest).mean() >= MOST else 0


def bytes_of_changes(model: Any) -> int:
    """Estimate the bytes of weights' changes that are kept until gradients are taken.

    LoHa and LoKr compute each whole, LoRA none.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, LycorisLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def bytes_per_token(model: Any) -> int:
    """Estimate the bytes that all layers keep of a token until its gradient is taken."""
    return _of_a_layer(model) * int(model.config.get_text_config().num_hidden_layers)


def bytes_per_token_twice(model: Any, setup: Setup) -> int:
    """Estimate the same where layers are computed twice, and what the token's logits take.

    Each layer keeps its input, and one at a time all of it, beside its gradients. A plain head's
    logits are there in pieces while training, and whole, without anything else, in an evaluation.
    """
    config, size = model.config.get_text_config(), model.dtype.itemsize
    inputs = int(config.hidden_size * config.num_hidden_layers * size)
    training = inputs + 2 * _of_a_layer(model)
    # As they are, in float32, and what the loss makes of them.
    logits = int(config.vocab_size * (size + 8))
    in_pieces = setup.packed and setup.linear_head
    return max(training, logits) if in_pieces else training + logits


def _of_a_layer(model: Any) -> int:
    config = model.config.get_text_config()
    inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
    return int((10 * config.hidden_size + 5 * inner) * model.dtype.itemsize)
