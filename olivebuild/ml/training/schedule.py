"""The schedule of a training: rows and learning rate of each step, and the number of steps.

The order in which a build runs its nodes is engine/scheduler.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Batches and learning rates of `steps` steps over `count` rows.

    The rate rises for `warmup` steps and, for the scheduler "stable", falls for the last `decay`.
    """

    count: int
    batch: int
    steps: int
    lr: float
    warmup: int
    scheduler: str
    decay: int
    seed: int | None
    """Seed of the order of the rows; None leaves them in the order of the data."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * lr_factor(step, self.steps, self.warmup, self.scheduler, self.decay)

    def batches(self, start: int = 0) -> Iterator[list[int]]:
        """Yield the indices of the rows of each step, from step `start` on."""
        return islice(batches_of(self.count, self.batch, self.seed), start, self.steps)

    @property
    def stable(self) -> int:
        """The number of first steps that do not depend on the number of all steps."""
        return self.steps - self.decay if self.scheduler == "stable" and self.seed is None else 0


def steps_of(count: int, batch: int, epochs: float) -> int:
    """Return the number of steps of `epochs` epochs over `count` rows."""
    return max(1, round(math.ceil(count / batch) * epochs))


def batches_of(count: int, batch: int, seed: int | None) -> Iterator[list[int]]:
    """Yield the indices of each batch without end, each epoch in a new order.

    The last batch of an epoch may be smaller.
    """
    generator = torch.Generator().manual_seed(seed or 0)
    while True:
        order = (
            range(count) if seed is None else torch.randperm(count, generator=generator).tolist()
        )
        yield from (list(order[i : i + batch]) for i in range(0, count, batch))


def lr_factor(step: int, steps: int, warmup: int, scheduler: str, decay: int = 0) -> float:
    """Return the factor of the learning rate at `step`, counted from 0.

    It rises linearly over `warmup` steps, and then decays to 0 at `steps`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if scheduler == "stable":
        return min(1.0, (steps - step) / (decay + 1))
    left = max(0.0, (steps - step) / max(1, steps - warmup))
    return {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}[
        scheduler
    ]
