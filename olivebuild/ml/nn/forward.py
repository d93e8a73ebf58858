"""A batch -> the gradient of its mean loss, whatever the layout, the micro-batch and the memory:
what the recipe says is not changed.

The mean is over all counted tokens of the batch, however it is cut. Logits are computed only where
a token is counted, and in pieces
where a vocabulary of logits would not fit. Layouts are in ml/nn/packing.py; which one a model takes
is
found by trying (`takes_packed`).
"""

from __future__ import annotations

import inspect
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

SMALLEST = 64


@dataclass
class Setup:
    """How batches are computed here. Chosen for the machine at hand; no part of a key."""

    packed: bool
    share: bool
    """Beginnings that rows have in common are computed once; not under dropout, which each row
    draws for itself.
    """
    limit: int
    """Tokens in one forward pass."""
    grouped: bool = True
    """Attention by padded groups of rows; else by torch's varlen kernel."""
    twice: bool = False
    """Layers are computed once more on the way back, to save memory."""
    flash: bool = False
    """Attention by FlashAttention 4 in the place of torch's kernels."""
    usual: int = 0
    """The length that most rows have, where rows of one length are attended to by a kernel of their
    own; else 0.
    """
    compiled: bool = False
    """Layers, and the loss, are compiled."""
    single: bool = False
    """Each row by itself, where the model computes rows of a padded batch otherwise than alone."""
    plain_head: bool = True
    """The logits are the head's product with the last hidden state, and nothing is done to them
    after it.
    """


class Forward:
    """`model` is peft's; `note` says aloud what has to be changed on the way."""

    def __init__(
        self, model: Any, device: torch.device, setup: Setup, note: Callable[[str], None]
    ) -> None:
        self.model = model
        self.device = device
        self.setup = setup
        self.note = note
        self.scale = 1.0
        """What the loss is multiplied with before its gradient is taken, for number formats of a
        small range.
        """
        self.reach = Reach(model)
        self._named = inspect.signature(model.get_base_model().forward).parameters
        model.set_attn_implementation(attention.NAME if setup.packed else own_attention(model))

    def lay_out(self, batch: Sequence[Tokens]) -> list[Packed | Padded]:
        setup, apart = self.setup, self.reach.apart(batch)
        if not setup.packed:
            return [
                pad(part, self.device)
                for rows in apart
                for part in _even(rows, 0 if setup.single else setup.limit)
            ]
        how: dict[str, Any] = {
            "share": setup.share,
            "grouped": setup.grouped,
            "usual": setup.usual,
            "flash": setup.flash,
        }
        return [
            pack(part, self.device, **how)
            for rows in apart
            for part in micro_batches(rows, setup.limit)
        ]

    def backward(
        self,
        batch: Sequence[Tokens],
        ready: list[Packed | Padded] | None = None,
        labels: int | None = None,
    ) -> torch.Tensor:
        """Add the gradient of the batch's mean loss to the weights; the loss.

        Without memory for it, in smaller pieces.

        `labels`: how many the mean is over, where the batch is a share of a larger one.
        """
        labels = labels or labels_of(batch)
        while True:
            try:
                total = torch.zeros((), device=self.device)
                for part in ready or self.lay_out(batch):
                    loss = self._loss(part) / labels
                    (loss * self.scale if self.scale != 1 else loss).backward()
                    total += loss.detach()
                return total
            except (torch.OutOfMemoryError, MemoryError):
                ready = None
                self._halve(max(map(len, batch)))

    def _halve(self, longest: int) -> None:
        """Raises StepError when there is nothing left to make smaller."""
        self.model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.setup.limit > max(longest, SMALLEST):
            self.setup.limit = max(self.setup.limit // 2, longest, SMALLEST)
            self.note(
                f"out of memory: going on with {self.setup.limit} tokens at a time, which changes "
                "no result"
            )
        elif not self.setup.twice:
            self.setup.twice = True
            checkpoint_layers(self.model)
            self.note(
                "out of memory: going on with layers computed twice (gradient checkpointing), "
                "which changes no result"
            )
        else:
            hint = "a smaller training.max_length, method: qlora, or a smaller model needs less"
            raise StepError(f"a single row of {longest} tokens does not fit into memory", hint=hint)

    def _loss(self, part: Packed | Padded) -> torch.Tensor:
        """The summed loss of a micro-batch."""
        if isinstance(part, Padded):
            return cross_entropy(
                self.padded_logits(part).float(),
                part.targets.flatten(),
                ignore_index=-100,
                reduction="sum",
            )
        if self.setup.plain_head:
            return head_loss(
                self.model,
                self.hidden(part)[part.predict],
                part.targets,
                compiled=self.setup.compiled,
            )
        return cross_entropy(self.logits(part).float(), part.targets, reduction="sum")

    def padded_logits(self, part: Padded) -> torch.Tensor:
        """Return the logits: [rows * targets, vocabulary]."""
        self.reach.begin()
        keep = part.targets.shape[1]
        given = {
            "attention_mask": part.mask,
            "position_ids": part.positions,
            "logits_to_keep": keep + 1,
        }
        # A class that comes with its model may know less.
        given = {name: value for name, value in given.items() if name in self._named}
        logits: torch.Tensor = self.model(input_ids=part.ids, use_cache=False, **given).logits
        return logits[:, -keep - 1 : -1].flatten(0, 1)

    def logits(self, part: Packed) -> torch.Tensor:
        """Return the logits: [counted tokens, vocabulary]."""
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
        """[tokens, hidden]: what the head is given."""
        self.reach.begin()
        inner = self.model.get_base_model().base_model
        out = inner(
            input_ids=part.ids, position_ids=part.positions, use_cache=False, rows=part.rows
        )
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    @torch.no_grad()
    def judge(self, rows: Sequence[Tokens]) -> tuple[float, int, int]:
        """Summed loss, how many counted tokens are the likeliest ones, and how many are counted."""
        loss, right, count = 0.0, 0, 0
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
                right += int((logits.argmax(-1) == targets).sum())
                count += targets.numel()
        return loss, right, count


def labels_of(batch: Sequence[Tokens]) -> int:
    """How many tokens of a batch the loss counts; at least 1, since it is divided by that."""
    return max(1, sum(row.labels for row in batch))


def _even(batch: Sequence[Tokens], limit: int) -> Iterator[list[Tokens]]:
    """For padded rows it is the longest that counts."""
    rows = max(1, limit // max(map(len, batch), default=1))
    return (list(batch[i : i + rows]) for i in range(0, len(batch), rows))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout in here."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def checkpoint_layers(model: Any) -> None:
    """Keep only what goes into each layer, and compute the rest again on the way back."""
    base = model.get_base_model()
    # Two names of one thing in versions of transformers.
    enable = (
        getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False})


@torch.no_grad()
def takes_packed(
    model: Any, rows: Sequence[Tokens], device: torch.device, note: Callable[[str], None]
) -> Setup:
    """How rows get the logits that each gets alone, packed if possible, asked on some of them; and
    whether the head is a plain product.

    They are short ones, and one that reaches as far beyond the model's windows and original context
    as any row does.
    """
    alone = Setup(packed=False, share=False, limit=1 << 30)
    with evaluating(model):
        forward = Forward(model, device, alone, note)
        some = forward.reach.apart(_trial_rows(rows, forward.reach))
        want = [
            torch.cat([_counted(forward, pad([row], device)) for row in part]).float()
            for part in some
        ]
        if why := keeps_state(model):
            note(f"rows can't be packed for this model: {why}")
        for grouped in (
            () if why else (False, True) if attention.takes_varlen(device, model.dtype) else (True,)
        ):
            setup = Setup(packed=True, share=True, limit=1 << 30, grouped=grouped)
            fault = _fault(Forward(model, device, setup, note), some, want)
            if not fault:
                return setup
            note(
                f"{'padded groups of rows' if grouped else 'the varlen kernel'} can't be used for "
                f"this model's attention: {fault}"
            )
        forward = Forward(model, device, alone, note)
        wrong = max(
            _difference(_counted(forward, pad(part, device)).float(), one)
            for part, one in zip(some, want, strict=True)
        )
        if wrong >= _allowed(model):
            note(f"rows are computed one by one: padded, their logits would differ by {wrong:.2g}")
            alone.single = True
    return alone


SHORT, BEYOND = 256, 64


def _trial_rows(rows: Sequence[Tokens], reach: Reach) -> list[Tokens]:
    lengths = lengths_of(rows)
    by_length = np.argsort(lengths, kind="stable")[:: max(1, len(rows) // 4)][:4]
    some = [
        Tokens(row.ids[:SHORT], row.counted[:SHORT]) for row in (rows[int(i)] for i in by_length)
    ]
    some = [row for row in some if row.labels] or [
        Tokens(rows[0].ids[:SHORT], rows[0].ids[:SHORT] >= 0)
    ]
    longest = rows[int(np.argmax(lengths))]
    passed = [limit for limit in reach.limits if limit < len(longest)]
    if passed and max(passed) >= max(map(len, some)):
        ids = longest.ids[: max(passed) + BEYOND]
        some.append(Tokens(ids, np.arange(len(ids)) >= len(ids) - SHORT))
    return some


def _fault(forward: Forward, some: Sequence[Sequence[Tokens]], want: Sequence[torch.Tensor]) -> str:
    """What is wrong with packed rows, or nothing."""
    device, setup, model, wrong = forward.device, forward.setup, forward.model, 0.0
    try:
        for rows, one in zip(some, want, strict=True):
            part, shared = (
                pack(rows, device, share=share, grouped=setup.grouped) for share in (False, True)
            )
            setup.plain_head = setup.plain_head and _plain_head(model, forward, part)
            wrong = max(wrong, _difference(forward.logits(part).float(), one))
            # Shared rows come in another order; their losses are compared, which is enough to tell
            # one beginning from another.
            wrong = max(wrong, _difference(forward._loss(shared), forward._loss(part)))
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as e:
        return first_line(e, 200)
    return "" if wrong < _allowed(model) else f"logits would differ by {wrong:.2g}"


def _allowed(model: Any) -> float:
    return 1e-4 if model.dtype == torch.float32 else 5e-2


def _counted(forward: Forward, part: Padded) -> torch.Tensor:
    return forward.padded_logits(part)[part.targets.flatten() >= 0]


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    found = float((a - b).norm() / b.norm().clamp_min(1e-12))
    return found if found == found else float("inf")


def _plain_head(model: Any, forward: Forward, part: Packed) -> bool:
    """Whether head(hidden) are the model's own logits, bit for bit, and the head is no part of what
    is trained.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.requires_grad:
        return False
    return torch.equal(head(forward.hidden(part)[part.predict]), forward.logits(part))
