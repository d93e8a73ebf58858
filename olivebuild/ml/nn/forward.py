"""Gradient of the mean loss of a batch, the same for every layout and size of micro-batches.

The mean is over all counted tokens of the batch, however it is cut. Logits are computed only where
a token is counted, and in pieces where a vocabulary of logits would not fit. Layouts are in
ml/nn/packing.py; the one that a model takes is found by trying (ml/nn/layout_trial.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from olivebuild.core.errors import StepError
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.nn import attention
from olivebuild.ml.nn.cuda_graphs import StepGraphs
from olivebuild.ml.nn.frozen import layers as frozen_layers
from olivebuild.ml.nn.frozen.turns import Turns
from olivebuild.ml.nn.loss_head import head_loss
from olivebuild.ml.nn.packing import Packed, Padded, micro_batches, pack, pad
from olivebuild.ml.nn.reach import Reach, own_attention

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
    cuda_graphs: bool = False
    """Gradients of small batches are CUDA graphs."""
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


class SharedPasses(Protocol):
    """What keeps processes together, none of which can make a pass without the others."""

    def most(self, count: int) -> int:
        """Return the most passes of a batch that any process makes; this one makes `count`."""

    def announce(self) -> None:
        """In the first process: have the others take part in a pass outside of batches."""


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
        self._passes: SharedPasses | None = None
        self._turns = Turns(model)
        self.reach = Reach(model)
        self._graphs = StepGraphs(self) if setup.cuda_graphs else None
        self._named = inspect.signature(model.get_base_model().forward).parameters
        model.set_attn_implementation(attention.NAME if setup.packed else own_attention(model))

    @property
    def most_tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.setup.tokens_per_micro_batch

    @property
    def turn(self) -> int:
        """Which of a base's roundings is computed with, 0 or 1; 0 where there is one."""
        return self._turns.turn

    def begin(self, step: int) -> None:
        """Compute with the base's weights of step number `step` from now on."""
        self._turns.begin(step)

    def replays(self, batch: Sequence[Tokens]) -> bool:
        """Return whether a batch's gradient is a CUDA graph's, which needs no layout."""
        return bool(self._graphs and not self.setup.recompute and self._graphs.take(batch))

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
        if self._graphs and layout is None and self.replays(batch):
            loss = self._graphs.backward(batch, labels)
            if loss is not None:
                return loss
        while True:
            try:
                total = torch.zeros((), device=self.device)
                layout = layout or self.lay_out(batch)
                if self._passes:
                    for _ in range(self._passes.most(len(layout)) - len(layout)):
                        self.pass_along()
                for part in layout:
                    # The backward pass too: it computes layers once more where memory is short.
                    with defined_attention(part):
                        loss = self.loss_of(part) / labels
                        if loss.requires_grad:
                            # Not where each layer goes without its adapter for once.
                            (loss * self.scale if self.scale != 1 else loss).backward()
                    total += loss.detach()
                return total
            except (torch.OutOfMemoryError, MemoryError):
                if self._passes:
                    raise StepError(
                        "out of memory, and the other processes can't begin the batch anew",
                        hint="a smaller training.max_length or batch needs less",
                    ) from None
                layout = None
                self._halve(max(map(len, batch)))

    def _halve(self, longest: int) -> None:
        """Use less memory. Raises StepError when there is nothing left to make smaller."""
        self.model.zero_grad(set_to_none=True)
        if self._graphs:
            # What they have captured keeps its memory.
            self._graphs.give_up("their memory is needed")
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

    def share_layers(self, rank: int, count: int, passes: SharedPasses) -> None:
        """Keep one of `count` pieces of each frozen layer; all processes make the same passes."""
        layers = frozen_layers.of(self.model)
        assert layers
        layers.shard(rank, count)
        self._passes = passes

    def pass_along(self, *, judging: bool = False) -> None:
        """Take part in a pass of another process, which needs this one's pieces of the layers.

        Nothing is learnt of it, and no random number used up.
        """
        row = Tokens(np.zeros(2, np.int32), np.array([False, True]))
        cards = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cards):
            if judging:
                self.begin(0)
                with torch.no_grad(), evaluating(self.model):
                    self._counted(*self.lay_out([row]))
                return
            (part,) = self.lay_out([row])
            with defined_attention(part):
                self.loss_of(part).backward()
        self.model.zero_grad(set_to_none=True)

    def loss_of(self, part: Packed | Padded) -> torch.Tensor:
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
                logits, targets = self._counted(part)
                loss += float(cross_entropy(logits.float(), targets, reduction="sum"))
                correct += int((logits.argmax(-1) == targets).sum())
                count += targets.numel()
        return loss, correct, count

    def _counted(self, part: Packed | Padded) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and targets of counted tokens, [counted, vocabulary] and [counted]."""
        if self._passes:
            self._passes.announce()
        # All judgements of a training are of the same weights of the base.
        self.begin(0)
        if not isinstance(part, Padded):
            return self.logits(part), part.targets
        counted = part.targets.flatten() >= 0
        with defined_attention(part):
            logits = self.padded_logits(part)[counted]
        return logits, part.targets.flatten()[counted]

    @torch.no_grad()
    def likeliest_next(self, ids: np.ndarray) -> int:
        """Return the likeliest token after others, int32 [tokens]. Draws no random number."""
        # One more token, whatever it is, so that there is something to predict.
        row = Tokens(np.append(ids, ids[-1:]), np.arange(len(ids) + 1) == len(ids))
        with evaluating(self.model):
            (part,) = self.lay_out([row])
            logits, _ = self._counted(part)
        return int(logits[0].argmax())


@contextmanager
def defined_attention(part: Packed | Padded) -> Iterator[None]:
    """Keep cuDNN's attention away inside the context from rows with tokens that see nothing.

    Such are padding, and masked tokens at a row's beginning. Processors' kernels, the
    memory-efficient one and plain products give them zeros. cuDNN's (torch 2.11) gives them the
    mean of all values, and a gradient that may be no number.
    """
    if isinstance(part, Padded) and part.ids.is_cuda:
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            yield
    else:
        yield


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
