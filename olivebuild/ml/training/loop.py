"""The training loop: optimizer steps by a schedule, and callbacks between them.

The weights that are stepped are float32, whatever the model computes in. Equal inputs give equal
bytes on a CPU, also when the loop was killed and resumed from its last state.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from olivebuild.core.errors import StepError
from olivebuild.core.numerics import differing
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.training.checkpoint import State, read
from olivebuild.ml.training.progress import PendingFigures, Progress, memory
from olivebuild.ml.training.schedule import Schedule
from olivebuild.ml.training.step_runner import StepRunner
from olivebuild.ml.training.validation import Validation

if TYPE_CHECKING:
    from olivebuild.api.job import Job

SMOOTH = 0.9
"""Weight of the earlier steps in the exponential moving average of the loss."""
WORSE_THAN_GUESSING = 1.5
"""Limit of the smoothed loss, as a multiple of that of an even guess over the vocabulary.

One bad batch does not reach it.
"""


class Callback(Protocol):
    """Work between two steps, for which the figures of all steps before it are awaited."""

    def due(self, step: int) -> bool:
        """Tell whether there is work after `step` steps."""

    def after(self, step: int, state: Callable[[], State]) -> bool:
        """Do the work that is due; return True to end the training. `state` makes the state."""


class TrainingLoop:
    """Runs the steps of a schedule, and the callbacks that are due between them, in their order.

    `validation` is the first of the callbacks; its figures and best weights are part of the state.
    """

    def __init__(
        self,
        job: Job,
        rows: Sequence[Tokens],
        schedule: Schedule,
        runner: StepRunner,
        validation: Validation | None = None,
    ) -> None:
        self.job, self.rows, self.schedule, self.runner = job, rows, schedule, runner
        self.validation = validation
        self.callbacks: list[Callback] = [validation] if validation else []
        self.progress = Progress(scale=runner.scale)
        self.step = 0
        self.steps_skipped = 0
        """Steps that an earlier training made, and this one did not have to."""
        self.steps_in_flight = 1 if runner.forward.device.type == "cuda" else 0
        """Steps that are begun before the figures of an earlier one are read."""

    def run(self) -> None:
        """Train to the end.

        Raises StepError when the loss diverges, and what a callback raises.
        """
        runner, steps = self.runner, self.schedule.steps
        runner.forward.model.train()
        batches = self.schedule.batches(self.step)
        rows = self._next(batches)
        layout = runner.lay_out(rows)
        self.job.progress("training", self.step, steps)
        begin, spent = time.monotonic(), self.progress.seconds
        pending: deque[PendingFigures] = deque()
        while self.step < steps:
            following = self._next(batches)
            pending.append(self._train_step(rows, layout))
            # Laid out while the device still computes: what follows waits for it.
            layout = runner.lay_out(following)
            due = [callback for callback in self.callbacks if callback.due(self.step)]
            drain = due or self.step == steps
            while len(pending) > (0 if drain else self.steps_in_flight):
                figures = pending.popleft()
                self._record(figures.step, *figures.read())
            self.progress.tokens += sum(map(len, rows))
            self.progress.seconds = spent + time.monotonic() - begin
            rows = following
            ended = False
            for callback in due:
                ended |= callback.after(self.step, self.state)
            if ended:
                break
        if self.validation:
            self.validation.take_best(runner.trainable.weights)
            runner.trainable.use()

    def _next(self, batches: Any) -> list[Tokens]:
        return [self.rows[i] for i in next(batches, [])]

    def _train_step(self, rows: list[Tokens], layout: Any) -> PendingFigures:
        figures = self.runner.run(self.step, self.schedule.rate(self.step), rows, layout)
        self.step += 1
        return PendingFigures(self.step, *figures)

    def _record(self, step: int, loss: float, norm: float) -> None:
        """Add a step's figures to the progress, and report them.

        Raises StepError when the loss is no number, or for some time worse than guessing.
        """
        progress = self.progress
        if fact := not_finite(loss, norm):
            raise self._diverged(f"{fact} at step {step}")
        progress.smooth = (
            loss if not progress.losses else SMOOTH * progress.smooth + (1 - SMOOTH) * loss
        )
        progress.losses.append(loss)
        progress.rates.append(self.schedule.rate(step - 1))
        progress.norms.append(norm)
        vocabulary = self.runner.forward.model.config.get_text_config().vocab_size
        if progress.smooth > WORSE_THAN_GUESSING * max(math.log(vocabulary), progress.losses[0]):
            raise self._diverged(
                f"the loss ran away: {progress.smooth:.1f} at step {step}, "
                f"{progress.losses[0]:.1f} at the first"
            )
        speed = progress.tokens / progress.seconds if progress.seconds else 0.0
        self.job.say(
            "metric",
            step=step,
            steps=self.schedule.steps,
            loss=round(loss, 5),
            lr=progress.rates[-1],
            grad_norm=round(norm, 4),
            tokens_per_second=round(speed, 1),
            **memory(self.runner.forward.device),
        )
        self.job.progress("training", step, self.schedule.steps)

    def _diverged(self, fact: str) -> StepError:
        hint = "a smaller training.lr or a longer training.warmup often helps"
        return StepError(fact, where=self.job.where("training", "lr"), hint=hint)

    def state(self) -> State:
        """Return the state after the steps so far. Its tensors are the training's own."""
        tensors = self.runner.state()
        self.progress.scale = self.runner.scale
        if self.validation:
            names = self.runner.trainable.names
            tensors |= {
                f"best.{name}": weight
                for name, weight in zip(names, self.validation.best, strict=False)
            }
            self.progress.evaluation = self.validation.figures()
        figures = vars(self.progress) | {"numerics": dict(self.job.action.numerics)}
        return State(self.step, tensors, figures)

    def resume(self, state: State) -> bool:
        """Resume from a state; return False, and change nothing, when it is another training's."""
        if not self.runner.fits(state.tensors):
            return False
        self.step, self.progress = state.step, Progress.from_figures(state.figures)
        self.runner.load(state.tensors, state.step)
        self.runner.scale = self.progress.scale
        if self.validation:
            names = (f"best.{name}" for name in self.runner.trainable.names)
            best = [state.tensors[name] for name in names if name in state.tensors]
            self.validation.restore(self.progress.evaluation, best)
        return True

    def resume_from(self, file: Path) -> None:
        """Resume from the state in a file, if there is one of this training."""
        state = read(file)
        if not state:
            return
        numerics = state.figures.get("numerics") or {}
        differences = differing(numerics, self.job.action.numerics)
        if differences and self.runner.forward.device.type == "cpu":
            # On a CPU, a training gives one result, whether it was stopped or not: half of each of
            # two machines' numbers would be neither's.
            self.job.note(
                f"an earlier run stopped at step {state.step}, under other numerics "
                f"({'; '.join(differences)}): the training restarts"
            )
        elif state.step <= self.schedule.steps and self.resume(state):
            self.job.note(
                f"resuming from step {self.step} of {self.schedule.steps}, where an earlier run "
                "stopped"
            )


def not_finite(loss: float, norm: float) -> str:
    """Return which figure of a step is no number any more, in words; empty where both are."""
    if not math.isfinite(loss):
        return f"the loss became {loss:g}"
    if not math.isfinite(norm):
        return f"the norm of the gradient became {norm:g}, of a loss of {loss:.4g},"
    return ""
