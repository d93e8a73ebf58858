"""Gradients of small batches as CUDA graphs, of which all kernels are launched at once.

Launching a kernel takes the processor some microseconds, and a large model has thousands. Of a few
hundred tokens each is done before the next one is launched. A graph's shapes are fixed, so rows are
padded at their ends to one of few lengths. Attention is causal, so that no token sees padding.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from olivebuild.core.errors import first_line
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.nn.packing import Packed, Rows

LAUNCH_BOUND = 1e13
"""Tokens times parameters up to which launching kernels takes longer than running them."""
LOGITS = 1 << 26
"""The most logits of a graph, which holds them all at once."""
SHORTEST, FEWEST = 32, 64
"""The least length of rows, and the least number of counted tokens, that graphs are made for."""
ROUNDING = 5e-2
"""The relative difference of losses and of gradients' norms that half precision explains."""
UNCOUNTED = -100


class Forward(Protocol):
    """What is captured: the logits of a model (ml/nn/forward.py)."""

    model: Any
    device: torch.device
    scale: float
    """Factor of the loss before its gradient is taken."""

    @property
    def turn(self) -> int:
        """Which of a base's roundings is computed with; a graph knows the addresses of one."""

    @property
    def note(self) -> Callable[[str], None]:
        """What is told of a model that can't be captured."""

    @property
    def most_tokens(self) -> int:
        """Tokens for which there is memory at once."""

    def logits(self, part: Packed) -> torch.Tensor:
        """Return the logits of counted tokens, [counted tokens, vocabulary]."""


class Shape(NamedTuple):
    """The shape of a batch: its rows, their padded length, and room for counted tokens."""

    rows: int
    length: int
    counted: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


class StepGraphs:
    """The graphs of a training, one for each shape and turn, made when one first comes."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._parameters = sum(p.numel() for p in forward.model.parameters())
        self._vocabulary = forward.model.config.get_text_config().vocab_size
        self._graphs: dict[tuple[Shape, int], _Graph] = {}
        self._pool: Any = None
        self._fault = ""

    def take(self, batch: Sequence[Tokens]) -> bool:
        """Return whether a batch's gradient is computed by a graph."""
        return bool(batch) and not self._fault and self._shape_of(batch) is not None

    def _shape_of(self, batch: Sequence[Tokens]) -> Shape | None:
        """Return the shape of a batch that is small enough; else None. It depends on it alone."""
        longest, labels = max(map(len, batch)), sum(row.labels for row in batch)
        shape = Shape(len(batch), _padded(longest, SHORTEST), _padded(labels, FEWEST))
        fits = (
            labels > 0
            and shape.tokens <= self._forward.most_tokens
            and shape.tokens * self._parameters <= LAUNCH_BOUND
            and shape.counted * self._vocabulary <= LOGITS
        )
        return shape if fits else None

    def backward(self, batch: Sequence[Tokens], labels: int) -> torch.Tensor | None:
        """Give the weights the gradient of a batch's mean loss; return the loss, a scalar.

        `labels`: the number of tokens that the mean is over. None, and no gradient, where the model
        can't be captured.
        """
        shape = self._shape_of(batch)
        assert shape
        forward = self._forward
        key = shape, forward.turn
        try:
            if key not in self._graphs:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                graph = _Graph(forward, shape)
                graph.fill(batch, labels, forward.scale)
                graph.capture(self._pool)
                self._graphs[key] = graph
            graph = self._graphs[key]
            graph.fill(batch, labels, forward.scale)
            return graph.replay()
        except (RuntimeError, MemoryError, NotImplementedError) as e:
            # torch.OutOfMemoryError is a RuntimeError.
            self.give_up(first_line(e, 200))
            forward.model.zero_grad(set_to_none=True)
            return None

    def give_up(self, why: str) -> None:
        """Take no batch any more, and give back the graphs' memory."""
        if not self._fault:
            self._fault = why
            self._graphs.clear()
            self._pool = None
            self._forward.note(f"steps are not replayed as CUDA graphs: {why}")


class _Graph:
    """The gradient of batches of one shape. Its inputs are tensors that are filled in place."""

    def __init__(self, forward: Forward, shape: Shape) -> None:
        self._forward = forward
        self._shape = shape
        self._weights = [p for p in forward.model.parameters() if p.requires_grad]
        sizes = [shape.tokens, shape.counted, shape.counted]
        self._numbers = torch.zeros(sum(sizes), dtype=torch.int64, device=forward.device)
        self._factors = torch.ones(2, device=forward.device)
        ids, predict, targets = self._numbers.split(sizes)
        self.part = uniform(ids, predict, targets, shape)
        self._graph: Any = None
        self._loss = torch.zeros(())
        self._gradients: list[torch.Tensor | None] = []

    def fill(self, batch: Sequence[Tokens], labels: int, scale: float) -> None:
        """Put a batch into the inputs, with what its loss is divided and its gradient scaled by."""
        device = self._forward.device
        numbers = torch.from_numpy(numbers_of(batch, self._shape))
        factors = torch.tensor([float(labels), scale])
        for inputs, values in ((self._numbers, numbers), (self._factors, factors)):
            pinned = values.pin_memory() if device.type == "cuda" else values
            inputs.copy_(pinned, non_blocking=True)

    def compute(self) -> torch.Tensor:
        """Add the gradient to the weights, kernel by kernel; return the mean loss, a scalar."""
        logits = self._forward.logits(self.part).float()
        targets = self.part.targets
        loss = cross_entropy(logits, targets, ignore_index=UNCOUNTED, reduction="sum")
        loss = loss / self._factors[0]
        (loss * self._factors[1]).backward()
        return loss.detach()

    def capture(self, pool: Any) -> None:
        """Capture the graph, whose inputs are filled.

        Raises RuntimeError where the host takes part in what is computed, since a graph would
        repeat what it did once, and where a replay gives something else.
        """
        device, drawn = self._forward.device, _host_random()
        before = torch.cuda.get_rng_state(device)
        try:
            expected = self._compute_apart(device)
            if _host_random() != drawn:
                raise RuntimeError("random numbers of the processor choose what is computed")
            self._forget_gradients()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=pool):
                self._loss = self.compute()
            self._gradients = [weight.grad for weight in self._weights]
            torch.cuda.set_rng_state(before, device)
            figures = self._figures(self.replay())
        finally:
            # Whatever computes the batch then draws what it would have drawn.
            self._forget_gradients()
            torch.cuda.set_rng_state(before, device)
        if not all(map(_agree, figures, expected)):
            raise RuntimeError(f"a replay gives {figures} where {expected} was computed")

    def _compute_apart(self, device: torch.device) -> tuple[float, float]:
        """Compute kernel by kernel, on a stream of its own; return the figures."""
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), _without_host():
            loss = self.compute()
        torch.cuda.current_stream(device).wait_stream(stream)
        return self._figures(loss)

    def replay(self) -> torch.Tensor:
        """Give the weights the gradient of what the inputs hold; return the mean loss, a scalar."""
        self._graph.replay()
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient
        return self._loss.clone()

    def _figures(self, loss: torch.Tensor) -> tuple[float, float]:
        """Return the loss and the norm of the gradient."""
        gradients = [w.grad for w in self._weights if w.grad is not None]
        return float(loss), float(torch.nn.utils.get_total_norm(gradients))

    def _forget_gradients(self) -> None:
        for weight in self._weights:
            weight.grad = None


def uniform(
    ids: torch.Tensor, predict: torch.Tensor, targets: torch.Tensor, shape: Shape
) -> Packed:
    """Return rows of one length, whose ids [tokens] and counted tokens [counted] are filled later.

    They lie where `numbers_of` puts them.
    """
    starts = torch.arange(shape.rows + 1, dtype=torch.int32, device=ids.device) * shape.length
    places = torch.arange(shape.length, device=ids.device).repeat(shape.rows)
    rows = Rows(
        keys=None,
        starts=starts,
        key_starts=starts,
        longest=shape.length,
        longest_keys=shape.length,
        alike=shape.rows,
    )
    return Packed(
        ids=ids[None], positions=places[None], predict=predict, targets=targets, rows=rows
    )


def numbers_of(batch: Sequence[Tokens], shape: Shape) -> np.ndarray:
    """Return a batch as int64 [tokens + 2 * counted].

    These are the ids of its padded rows, the places that predict counted tokens, and those tokens,
    of which the missing ones are not counted.
    """
    ids = np.zeros((shape.rows, shape.length), np.int64)
    predict = np.zeros(shape.counted, np.int64)
    targets = np.full(shape.counted, UNCOUNTED, np.int64)
    end = 0
    for r, row in enumerate(batch):
        ids[r, : len(row)] = row.ids
        counted = np.flatnonzero(row.counted[1:])
        start, end = end, end + len(counted)
        predict[start:end] = r * shape.length + counted
        targets[start:end] = row.ids[1:][counted]
    return np.concatenate([ids.ravel(), predict, targets])


def _padded(count: int, least: int) -> int:
    """Return the next of `least` times 1, 1.5, 2, 3, 4, 6, 8 and so on."""
    size = least
    while size < count:
        if size + size // 2 >= count:
            return size + size // 2
        size *= 2
    return size


def _agree(a: float, b: float) -> bool:
    """Return whether two figures differ by rounding, or neither is a number.

    The first gradients of float16 may leave its range; they are computed again, scaled less.
    """
    if not (math.isfinite(a) or math.isfinite(b)):
        return True
    return abs(a - b) <= ROUNDING * abs(b)


def _host_random() -> tuple[object, ...]:
    """Return the states of the processor's random numbers, of torch, Python and numpy."""
    numbers: Any = np.random.get_state()
    drawn = (numbers[1].tobytes(), *numbers[2:])
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), drawn


@contextmanager
def _without_host() -> Iterator[None]:
    """Raise RuntimeError inside the context where the host waits for a value of the device's.

    In a graph what it decides by such a value would be decided once and for all.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
