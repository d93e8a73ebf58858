"""Gradient of the mean loss of a batch, the same for every layout and size of micro-batches.

The mean is over all counted tokens of the batch, however it is cut. Logits are computed only where
a token is counted, and in pieces where a vocabulary of logits would not fit. Layouts are in
ml/nn/packing.py; the one that a model takes is found by trying (`takes_packed`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from olivebuild.core.errors import StepError, first_line
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.data.token_shards import lengths_of
from olivebuild.ml.nn import attention
from olivebuild.ml.nn.loss_head import head_loss
from olivebuild.ml.nn.packing import Packed, Padded, micro_batches, pack, pad
from olivebuild.ml.nn.reach import Reach, keeps_state, own_attention

MIN_TOKENS = 64
"""The fewest tokens of a micro-batch that memory may force."""
UNLIMITED = 1 << 30


@dataclass(kw_only=True)
class Setup:
    """Computation of batches, chosen for the machine at hand; no part of a key."""

    packed: bool
    share_prefixes: bool
    """Beginnings that rows have in common are computed once.

    Not under dropout, which each row draws for itself.
    """
    tokens_per_micro_batch: int
    padded_groups: bool = True
    """Attention by padded groups of rows; else by torch's varlen kernel."""
    recompute: bool = False
    """Layers are computed once more in the backward pass, to save memory."""
    flash: bool = False
    """Attention by FlashAttention 4 in the place of torch's kernels."""
    uniform_length: int = 0
    """The length that most rows have, where a kernel of its own attends to those; else 0."""
    compiled: bool = False
    """Layers, and the loss, are compiled."""
    single: bool = False
    """Each row by itself, where the model computes rows of a padded batch otherwise than alone."""
    linear_head: bool = True
    """The logits are the head's product with the last hidden state, and nothing else."""

    def provenance(self) -> dict[str, Any]:
        """Return the fields by the names that traces on disk have for them."""
        return {RECORDED.get(name, name): value for name, value in vars(self).items()}


RECORDED = {
    "share_prefixes": "share",
    "tokens_per_micro_batch": "limit",
    "padded_groups": "grouped",
    "recompute": "twice",
    "uniform_length": "usual",
    "linear_head": "plain_head",
}
"""Names of Setup's fields in traces, where they differ."""


class Forward:
    """Forward and backward passes of peft's `model`; `note` reports changes that memory forces."""

    def __init__(
        self, model: Any, device: torch.device, setup: Setup, note: Callable[[str], None]
    ) -> None:
        self.model = model
        self.device = device
        self.setup = setup
        self.note = note
        self.scale = 1.0
        """Factor of the loss before its gradient is taken, for number formats of a small range."""
        self.subtracted: dict[str, torch.Tensor] = {}
        """What LoftQ took off the base's weights before they were quantised."""
        self.reach = Reach(model)
        self._named = inspect.signature(model.get_base_model().forward).parameters
        model.set_attn_implementation(attention.NAME if setup.packed else own_attention(model))

    def lay_out(self, batch: Sequence[Tokens]) -> list[Packed | Padded]:
        """Return the micro-batches of a batch, on the device."""
        setup, apart = self.setup, self.reach.apart(batch)
        if not setup.packed:
            return [
                pad(part, self.device)
                for rows in apart
                for part in _even(rows, 0 if setup.single else setup.tokens_per_micro_batch)
            ]
        options: dict[str, Any] = {
            "share_prefixes": setup.share_prefixes,
            "padded_groups": setup.padded_groups,
            "uniform_length": setup.uniform_length,
            "flash": setup.flash,
        }
        return [
            pack(part, self.device, **options)
            for rows in apart
            for part in micro_batches(rows, setup.tokens_per_micro_batch)
        ]

    def backward(
        self,
        batch: Sequence[Tokens],
        layout: list[Packed | Padded] | None = None,
        labels: int | None = None,
    ) -> torch.Tensor:
        """Add the gradient of the batch's mean loss to the weights; return the loss, a scalar.

        Without memory for it, in smaller micro-batches. `layout` are those of `lay_out`. `labels`
        is the number of tokens that the mean is over, where the batch is a share of a larger one.
        """
        labels = labels or labels_of(batch)
        while True:
            try:
                total = torch.zeros((), device=self.device)
                for part in layout or self.lay_out(batch):
                    loss = self._loss(part) / labels
                    if loss.requires_grad:
                        # Not where each layer goes without its adapter for once.
                        (loss * self.scale if self.scale != 1 else loss).backward()
                    total += loss.detach()
                return total
            except (torch.OutOfMemoryError, MemoryError):
                layout = None
                self._halve(max(map(len, batch)))

    def _halve(self, longest: int) -> None:
        """Use less memory. Raises StepError when there is nothing left to make smaller."""
        self.model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        tokens = self.setup.tokens_per_micro_batch
        if tokens > max(longest, MIN_TOKENS):
            tokens = max(tokens // 2, longest, MIN_TOKENS)
            self.setup.tokens_per_micro_batch = tokens
            self.note(
                f"out of memory: going on with {tokens} tokens at a time, which changes no result"
            )
        elif not self.setup.recompute:
            self.setup.recompute = True
            checkpoint_layers(self.model)
            self.note(
                "out of memory: going on with layers computed twice (gradient checkpointing), "
                "which changes no result"
            )
        else:
            hint = "a smaller training.max_length, method: qlora, or a smaller model needs less"
            raise StepError(f"a single row of {longest} tokens does not fit into memory", hint=hint)

    def _loss(self, part: Packed | Padded) -> torch.Tensor:
        """Return the summed loss of a micro-batch, a scalar."""
        if isinstance(part, Padded):
            return cross_entropy(
                self.padded_logits(part).float(),
                part.targets.flatten(),
                ignore_index=-100,
                reduction="sum",
            )
        if self.setup.linear_head:
            return head_loss(
                self.model,
                self.hidden(part)[part.predict],
                part.targets,
                compiled=self.setup.compiled,
            )
        return cross_entropy(self.logits(part).float(), part.targets, reduction="sum")

    def padded_logits(self, part: Padded) -> torch.Tensor:
        """Return the logits of padded rows' targets, [rows * targets, vocabulary]."""
        self.reach.begin()
        keep = part.targets.shape[1]
        options = {
            "attention_mask": part.mask,
            "position_ids": part.positions,
            "logits_to_keep": keep + 1,
        }
        # A class that comes with its model may take fewer.
        options = {name: value for name, value in options.items() if name in self._named}
        logits: torch.Tensor = self.model(input_ids=part.ids, use_cache=False, **options).logits
        return logits[:, -keep - 1 : -1].flatten(0, 1)

    def logits(self, part: Packed) -> torch.Tensor:
        """Return the logits of counted tokens, [counted tokens, vocabulary]."""
        self.reach.begin()
        out = self.model(
            input_ids=part.ids,
            position_ids=part.positions,
            logits_to_keep=part.predict,
            use_cache=False,
            rows=part.rows,
        )
        logits: torch.Tensor = out.logits[0]
        return logits

    def hidden(self, part: Packed) -> torch.Tensor:
        """Return the last hidden state, which the head takes, [tokens, hidden]."""
        self.reach.begin()
        inner = self.model.get_base_model().base_model
        out = inner(
            input_ids=part.ids, position_ids=part.positions, use_cache=False, rows=part.rows
        )
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    @torch.no_grad()
    def evaluate(self, rows: Sequence[Tokens]) -> tuple[float, int, int]:
        """Return the summed loss, the number of correct tokens, and that of counted ones.

        A counted token is correct when it is the likeliest one.
        """
        loss, correct, count = 0.0, 0, 0
        with evaluating(self.model):
            for part in self.lay_out(rows):
                if isinstance(part, Padded):
                    counted = part.targets.flatten() >= 0
                    logits, targets = (
                        self.padded_logits(part)[counted],
                        part.targets.flatten()[counted],
                    )
                else:
                    logits, targets = self.logits(part), part.targets
                loss += float(cross_entropy(logits.float(), targets, reduction="sum"))
                correct += int((logits.argmax(-1) == targets).sum())
                count += targets.numel()
        return loss, correct, count


def labels_of(batch: Sequence[Tokens]) -> int:
    """Return the number of counted tokens of a batch; at least 1, for the loss is divided by it."""
    return max(1, sum(row.labels for row in batch))


def _even(batch: Sequence[Tokens], limit: int) -> Iterator[list[Tokens]]:
    """Yield parts of a batch that, padded to its longest row, have at most `limit` tokens."""
    rows = max(1, limit // max(map(len, batch), default=1))
    return (list(batch[i : i + rows]) for i in range(0, len(batch), rows))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Turn dropout off inside the context."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def checkpoint_layers(model: Any) -> None:
    """Keep only each layer's input, and compute the rest again in the backward pass."""
    base = model.get_base_model()
    # Versions of transformers have two names for it.
    enable = (
        getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False})


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
    with evaluating(model):
        forward = Forward(model, device, alone, note)
        parts = forward.reach.apart(_trial_rows(rows, forward.reach))
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


def _trial_rows(rows: Sequence[Tokens], reach: Reach) -> list[Tokens]:
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
            error = max(error, _difference(forward._loss(shared), forward._loss(part)))
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
