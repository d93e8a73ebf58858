"""Callback that evaluates held-out rows: their loss and label accuracy, and the best weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from olivebuild.ml.data.examples import Tokens

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.ml.nn.forward import Forward
    from olivebuild.ml.training.checkpoint import State

ROWS = 64
"""Rows that are evaluated at once."""


class Validation:
    """Evaluates held-out rows `every` steps and at the end.

    `patience` is the number of evaluations in a row after which a loss that does not fall ends the
    training. `best`: the best weights are kept.
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

    def attach(
        self, job: Job, forward: Forward, weights: Sequence[torch.Tensor], steps: int
    ) -> None:
        """Evaluate by this forward pass; `weights` are those trained, in `steps` steps."""
        self._job, self._forward, self._weights, self._steps = job, forward, weights, steps

    def due(self, step: int) -> bool:
        return step % self.every == 0 or step == self._steps

    def after(self, step: int, _: Callable[[], State]) -> bool:
        """Evaluate and report; return True when the loss has not fallen for `patience` times."""
        loss, correct, count = 0.0, 0, 0
        for i in range(0, len(self.rows), ROWS):
            part = self._forward.evaluate(self.rows[i : i + ROWS])
            loss, correct, count = loss + part[0], correct + part[1], count + part[2]
        self.steps.append(step)
        self.losses.append(round(loss / max(1, count), 5))
        self.accuracies.append(round(correct / max(1, count), 5))
        if loss < self._best_loss:
            self._best_loss, self.best_step = loss, step
            if self.keeps_best:
                self.best = [w.detach().clone() for w in self._weights]
        self._job.say("metric", step=step, steps=self._steps, **self.last)
        waited = len(self.steps) - 1 - self.steps.index(self.best_step) if self.best_step else 0
        return self.patience is not None and waited >= self.patience

    @property
    def last(self) -> dict[str, float]:
        """Loss and accuracy of the last evaluation, by the names of their metrics."""
        return {"eval_loss": self.losses[-1], "eval_accuracy": self.accuracies[-1]}

    def curve(self) -> dict[str, list[float]]:
        """Return the evaluations so far, by the names of their columns in a curve."""
        return {
            "eval_step": [*map(float, self.steps)],
            "eval_loss": self.losses,
            "eval_accuracy": self.accuracies,
        }

    @torch.no_grad()
    def take_best(self, weights: Sequence[torch.Tensor]) -> None:
        """Give the weights the values of the best step, if those were kept."""
        for weight, best in zip(weights, self.best, strict=False):
            weight.copy_(best)

    def figures(self) -> dict[str, Any]:
        """Return what `restore` takes, as JSON."""
        return {
            "steps": self.steps,
            "losses": self.losses,
            "accuracies": self.accuracies,
            "best_step": self.best_step,
            "best_loss": self._best_loss,
        }

    def restore(self, figures: dict[str, Any], best: list[torch.Tensor]) -> None:
        """Take the figures and best weights of a state, if it has any."""
        if not figures:
            return
        self.steps, self.losses = figures["steps"], figures["losses"]
        self.accuracies = figures["accuracies"]
        self.best_step, self._best_loss = figures["best_step"], figures["best_loss"]
        self.best = best
