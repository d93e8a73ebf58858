"""Held-out rows judged while training: loss and label accuracy, the best weights so far, and when
it is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.nn.forward import Forward

ROWS = 64
"""Rows that are judged at once."""


class Verdict(Enum):
    GO_ON = "go on"
    ENOUGH = "enough"


class Evaluation:
    """`every` steps and at the end.

    `patience`: how many times in a row the loss may not fall. `best`: the best weights are kept.
    """

    def __init__(
        self, rows: Sequence[Tokens], every: int, patience: int | None, *, best: bool
    ) -> None:
        self.rows, self.every, self.patience, self.keeps_best = rows, every, patience, best
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.best: list[torch.Tensor] = []
        self.best_step = 0
        self._best_loss = float("inf")

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps

    def judge(self, step: int, forward: Forward, weights: Sequence[torch.Tensor]) -> Verdict:
        loss, right, count = 0.0, 0, 0
        for i in range(0, len(self.rows), ROWS):
            some = forward.judge(self.rows[i : i + ROWS])
            loss, right, count = loss + some[0], right + some[1], count + some[2]
        self.steps.append(step)
        self.losses.append(round(loss / max(1, count), 5))
        self.accuracies.append(round(right / max(1, count), 5))
        if loss < self._best_loss:
            self._best_loss, self.best_step = loss, step
            if self.keeps_best:
                self.best = [w.detach().clone() for w in weights]
        waited = len(self.steps) - 1 - self.steps.index(self.best_step) if self.best_step else 0
        return (
            Verdict.ENOUGH
            if self.patience is not None and waited >= self.patience
            else Verdict.GO_ON
        )

    @property
    def last(self) -> dict[str, float]:
        return {"eval_loss": self.losses[-1], "eval_accuracy": self.accuracies[-1]}

    def curve(self) -> dict[str, list[float]]:
        return {
            "eval_step": [*map(float, self.steps)],
            "eval_loss": self.losses,
            "eval_accuracy": self.accuracies,
        }

    @torch.no_grad()
    def take_best(self, weights: Sequence[torch.Tensor]) -> None:
        for weight, best in zip(weights, self.best, strict=False):
            weight.copy_(best)

    def figures(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "losses": self.losses,
            "accuracies": self.accuracies,
            "best_step": self.best_step,
            "best_loss": self._best_loss,
        }

    def restore(self, figures: dict[str, Any], best: list[torch.Tensor]) -> None:
        if figures:
            self.steps, self.losses, self.accuracies = (
                figures["steps"],
                figures["losses"],
                figures["accuracies"],
            )
            self.best_step, self._best_loss = figures["best_step"], figures["best_loss"]
            self.best = best
