"""Choice of the layout that a model takes, by trying it on some rows.

A layout is taken where each row gets the logits that it gets alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from olivebuild.core.errors import first_line
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.data.token_shards import lengths_of
from olivebuild.ml.nn import attention
from olivebuild.ml.nn.forward import UNLIMITED, Forward, Setup, evaluating
from olivebuild.ml.nn.frozen.fp8 import plain_inputs
from olivebuild.ml.nn.packing import Packed, Padded, pack, pad
from olivebuild.ml.nn.reach import Reach, keeps_state


@torch.no_grad()
def takes_packed(
    model: Any,
    rows: Sequence[Tokens],
    device: torch.device,
    note: Callable[[str], None],
    *,
    packed: bool = True,
) -> Setup:
    """Return the setup by which rows get the logits that each gets alone, packed if possible.

    `packed`: rows may be packed.

    It is tried on some rows: short ones, and one that reaches as far beyond the model's windows and
    original context as any row does. `linear_head` is found out as well.
    """
    alone = Setup(packed=False, share_prefixes=False, tokens_per_micro_batch=UNLIMITED)
    with evaluating(model), plain_inputs(model):
        forward = Forward(model, device, alone, note)
        parts = forward.reach.apart(trial_rows(rows, forward.reach))
        expected = [
            torch.cat([_counted(forward, pad([row], device)) for row in part]).float()
            for part in parts
        ]
        setup = _packed_setup(model, device, note, parts, expected) if packed else None
        if setup:
            return setup
        forward = Forward(model, device, alone, note)
        error = max(
            _difference(_counted(forward, pad(part, device)).float(), logits)
            for part, logits in zip(parts, expected, strict=True)
        )
        if error >= _allowed(model):
            note(f"rows are computed one by one: padded, their logits would differ by {error:.2g}")
            alone.single = True
    return alone


def _packed_setup(
    model: Any,
    device: torch.device,
    note: Callable[[str], None],
    parts: Sequence[Sequence[Tokens]],
    expected: Sequence[torch.Tensor],
) -> Setup | None:
    """Return the first packed setup that gives the expected logits; None where there is none."""
    if why := keeps_state(model):
        note(f"rows can't be packed for this model: {why}")
        return None
    varlen = attention.takes_varlen(device, model.dtype)
    for padded_groups in (False, True) if varlen else (True,):
        setup = Setup(
            packed=True,
            share_prefixes=True,
            tokens_per_micro_batch=UNLIMITED,
            padded_groups=padded_groups,
        )
        fault = _fault(Forward(model, device, setup, note), parts, expected)
        if not fault:
            return setup
        kernel = "padded groups of rows" if padded_groups else "the varlen kernel"
        note(f"{kernel} can't be used for this model's attention: {fault}")
    return None


SHORT, BEYOND = 256, 64
"""Tokens of the short rows, and tokens beyond the model's windows, of a trial."""


def trial_rows(rows: Sequence[Tokens], reach: Reach) -> list[Tokens]:
    """Return up to four short rows of different lengths, and one beyond the model's windows."""
    lengths = lengths_of(rows)
    by_length = np.argsort(lengths, kind="stable")[:: max(1, len(rows) // 4)][:4]
    trial = []
    for row in (rows[int(i)] for i in by_length):
        short = Tokens(row.ids[:SHORT], row.counted[:SHORT])
        if short.labels:
            trial.append(short)
    if not trial:
        trial.append(Tokens(rows[0].ids[:SHORT], rows[0].ids[:SHORT] >= 0))
    longest = rows[int(np.argmax(lengths))]
    passed = [limit for limit in reach.limits if limit < len(longest)]
    if passed and max(passed) >= max(map(len, trial)):
        ids = longest.ids[: max(passed) + BEYOND]
        trial.append(Tokens(ids, np.arange(len(ids)) >= len(ids) - SHORT))
    return trial


def _fault(
    forward: Forward, parts: Sequence[Sequence[Tokens]], expected: Sequence[torch.Tensor]
) -> str:
    """Return the reason why packed rows can't be used, or an empty text; set `linear_head`."""
    device, setup, model, error = forward.device, forward.setup, forward.model, 0.0
    try:
        for rows, logits in zip(parts, expected, strict=True):
            part, shared = (
                pack(rows, device, share_prefixes=share, padded_groups=setup.padded_groups)
                for share in (False, True)
            )
            setup.linear_head = setup.linear_head and _linear_head(model, forward, part)
            error = max(error, _difference(forward.logits(part).float(), logits))
            # Shared rows come in another order; their losses are compared, which is enough to tell
            # one beginning from another.
            error = max(error, _difference(forward.loss_of(shared), forward.loss_of(part)))
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as e:
        return first_line(e, 200)
    return "" if error < _allowed(model) else f"logits would differ by {error:.2g}"


def _allowed(model: Any) -> float:
    """Return the relative error of logits that rounding explains."""
    return 1e-4 if model.dtype == torch.float32 else 5e-2


def _counted(forward: Forward, part: Padded) -> torch.Tensor:
    return forward.padded_logits(part)[part.targets.flatten() >= 0]


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the relative error of `a`; infinity where there is a NaN."""
    error = float((a - b).norm() / b.norm().clamp_min(1e-12))
    return float("inf") if math.isnan(error) else error


def _linear_head(model: Any, forward: Forward, part: Packed) -> bool:
    """Tell whether head(hidden) are the model's own logits, bit for bit.

    A head that is trained does not count.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.requires_grad:
        return False
    return torch.equal(head(forward.hidden(part)[part.predict]), forward.logits(part))
