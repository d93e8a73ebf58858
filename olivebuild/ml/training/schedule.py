"""What is trained when: the rows of each step, the learning rate of each step, and how many steps
there are. Plain arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch


@dataclass(frozen=True)
class Schedule:
    """`steps` in all, `warmup` of them at a rising rate and, for the scheduler "stable", `decay` at
    a falling one.
    """

    count: int
    batch: int
    steps: int
    lr: float
    warmup: int
    scheduler: str
    decay: int
    seed: int | None
    """Of the order of the rows; None leaves them in the order of the data."""

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        return self.lr * lr_factor(step, self.steps, self.warmup, self.scheduler, self.decay)

    def batches(self, start: int = 0) -> Iterator[list[int]]:
        """Indices of rows for each step, from `start` on."""
        return islice(batches_of(self.count, self.batch, self.seed), start, self.steps)

    @property
    def stable(self) -> int:
        """The steps of which none depends on how many there are in all."""
        return self.steps - self.decay if self.scheduler == "stable" and self.seed is None else 0


def steps_of(count: int, batch: int, epochs: float) -> int:
    return max(1, round(math.ceil(count / batch) * epochs))


def batches_of(count: int, batch: int, seed: int | None) -> Iterator[list[int]]:
    """Indices of examples, each epoch in a new order; the last batch of an epoch may be smaller."""
    generator = torch.Generator().manual_seed(seed or 0)
    while True:
        order = (
            range(count) if seed is None else torch.randperm(count, generator=generator).tolist()
        )
        yield from (list(order[i : i + batch]) for i in range(0, count, batch))


def lr_factor(step: int, steps: int, warmup: int, scheduler: str, decay: int = 0) -> float:
    """What the learning rate is multiplied with at `step` (from 0): linear warm-up, then decay to 0
    at `steps`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if scheduler == "stable":
        return min(1.0, (steps - step) / (decay + 1))
    left = max(0.0, (steps - step) / max(1, steps - warmup))
    return {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}[
        scheduler
    ]
