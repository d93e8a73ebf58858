"""The training loop: steps of AdamW on the adapter's weights, with its state kept, its curve told,
and an end where it goes wrong.

The weights that are stepped are float32, whatever the model computes in. Equal inputs give equal
bytes on a processor, also when
the loop was killed and went on from its last state.
"""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from olivebuild.core.errors import StepError
from olivebuild.core.numerics import differing
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.nn.forward import Forward, labels_of
from olivebuild.ml.training.checkpoint import Keeper, State, read
from olivebuild.ml.training.data_parallel import Ranks, share_of
from olivebuild.ml.training.parameters import Trainable
from olivebuild.ml.training.schedule import Schedule
from olivebuild.ml.training.validation import Evaluation, Verdict

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import Training

SMOOTH = 0.9
WORSE_THAN_GUESSING = 1.5
"""A smoothed loss of this many times that of an even guess over the vocabulary is no bad batch any
more.
"""
POINTS = 500
SCALINGS = 24


@dataclass
class Progress:
    """Figures of a training so far, as they are kept with its state."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    smooth: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    scale: float = 1.0
    evaluation: dict[str, Any] = field(default_factory=dict)

    def curve(self) -> dict[str, list[float]]:
        """At most POINTS points, the last one among them; losses are means of what lies between two
        points.
        """
        stride = max(1, math.ceil(len(self.losses) / POINTS))
        ends = sorted({*range(stride, len(self.losses) + 1, stride), len(self.losses)} - {0})
        means = [
            round(sum(self.losses[max(0, e - stride) : e]) / (e - max(0, e - stride)), 5)
            for e in ends
        ]
        curve: dict[str, list[float]] = {"step": [*map(float, ends)], "loss": means}
        return curve | {
            "lr": [self.rates[e - 1] for e in ends],
            "grad_norm": [round(self.norms[e - 1], 4) for e in ends],
        }


class Told:
    """Loss and gradient norm of a step, on their way from the device while it goes on to the
    next.
    """

    def __init__(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.step = step
        self._figures = torch.stack([loss.detach().float(), norm.detach().float()])
        self._arrived: torch.cuda.Event | None = None
        if self._figures.is_cuda:
            there = torch.empty(2, pin_memory=True)
            there.copy_(self._figures, non_blocking=True)
            self._figures, self._arrived = there, torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[float, float]:
        if self._arrived:
            self._arrived.synchronize()
        loss, norm = self._figures.tolist()
        return loss, norm


class Loop:
    """`ranks`: processes that take the gradients of their shares of each batch; all else is done
    here.
    """

    def __init__(
        self,
        job: Job,
        forward: Forward,
        rows: Sequence[Tokens],
        schedule: Schedule,
        training: Training,
        evaluation: Evaluation | None,
        keeper: Keeper,
        ranks: Ranks | None = None,
    ) -> None:
        self.job, self.forward, self.rows, self.schedule, self.training = (
            job,
            forward,
            rows,
            schedule,
            training,
        )
        self.evaluation, self.keeper = evaluation, keeper
        self.trainable, self.ranks = Trainable(forward.model), ranks
        self.names, self.weights = self.trainable.names, self.trainable.weights
        options = {"betas": (0.9, training.beta2), "weight_decay": training.weight_decay}
        fused = training.speed == "auto" and forward.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(self.weights, lr=training.lr, fused=fused, **options)
        self.progress = Progress(scale=2.0**12 if forward.model.dtype == torch.float16 else 1.0)
        self.step = 0
        self.known = 0
        """Steps that were not run, since an earlier training did the same."""
        self._stop = False
        self.ahead = 1 if forward.device.type == "cuda" else 0
        """Steps that are begun before the figures of an earlier one are read."""
        self._also: dict[int, Callable[[State], None]] = {}
        """What else is done with the state after some steps."""

    def run(self) -> None:
        """Train to the end.

        Raises StepError when the loss runs away, SystemExit when asked to stop, after keeping the
        state.
        """
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, self._asked_to_stop)
        self.forward.model.train()
        batches = self.schedule.batches(self.step)
        rows = self._next(batches)
        ready = self._lay_out(rows)
        self.job.progress("training", self.step, self.schedule.steps)
        begin, spent, shown = time.monotonic(), self.progress.seconds, sum(map(len, rows))
        waiting: deque[Told] = deque()
        while self.step < self.schedule.steps:
            following = self._next(batches)
            waiting.append(Told(self.step + 1, *self._one(rows, ready)))
            # Laid out while the device still computes: what follows waits for it.
            ready = self._lay_out(following)
            self.step += 1
            pauses = self._pauses()
            while len(waiting) > (0 if pauses else self.ahead):
                told = waiting.popleft()
                self._note(told.step, *told.read())
            self.progress.tokens += shown
            rows, shown = following, sum(map(len, following))
            self.progress.seconds = spent + time.monotonic() - begin
            if pauses:
                ended = self._evaluate()
                self._keep()
                if ended:
                    break
        if self.evaluation:
            self.evaluation.take_best(self.weights)
            self.trainable.use()

    def _pauses(self) -> bool:
        """Whether something is to be done after this step for which all before must be known."""
        ends = self._stop or self.step == self.schedule.steps or self.step in self._also
        return (
            ends
            or self.keeper.due(self.step)
            or bool(self.evaluation and self.evaluation.due(self.step, self.schedule.steps))
        )

    def _next(self, batches: Any) -> list[Tokens]:
        return [self.rows[i] for i in next(batches, [])]

    def _own(self, rows: list[Tokens]) -> list[Tokens]:
        return share_of(rows, 0, self.ranks.count) if self.ranks else rows

    def _lay_out(self, rows: list[Tokens]) -> Any:
        return self.forward.lay_out(self._own(rows)) if rows else None

    def _one(self, rows: list[Tokens], ready: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """One step: the loss before it, and the norm of its gradient."""
        labels = labels_of(rows)
        for _ in range(SCALINGS):
            self.forward.scale = self.progress.scale
            if self.ranks:
                self.ranks.begin(self.step, self.progress.scale, self.trainable)
            loss = self.forward.backward(self._own(rows), ready, labels)
            self.trainable.take_gradients(self.progress.scale)
            if self.ranks:
                loss = self.ranks.add_up(self.trainable, loss)
            norm = torch.nn.utils.clip_grad_norm_(self.weights, self.training.max_grad_norm)
            if self.progress.scale == 1 or bool(torch.isfinite(norm)):
                break
            # The gradient left the number format's range: the same batch again, scaled less.
            self.optimizer.zero_grad(set_to_none=True)
            self.progress.scale /= 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.trainable.use()
        return loss, norm

    def _note(self, step: int, loss: float, norm: float) -> None:
        """Raises StepError when the loss is no number, or for some time worse than guessing."""
        progress, vocabulary = self.progress, self.forward.model.config.get_text_config().vocab_size
        hint = "a smaller training.lr or a longer training.warmup often helps"
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise StepError(
                f"the loss became {loss:g} at step {step}",
                where=self.job.where("training", "lr"),
                hint=hint,
            )
        progress.smooth = (
            loss if not progress.losses else SMOOTH * progress.smooth + (1 - SMOOTH) * loss
        )
        progress.losses.append(loss)
        progress.rates.append(self.schedule.rate(step - 1))
        progress.norms.append(norm)
        limit = WORSE_THAN_GUESSING * max(math.log(vocabulary), progress.losses[0])
        if progress.smooth > limit:
            text = (
                f"the loss ran away: {progress.smooth:.1f} at step {step}, "
                f"{progress.losses[0]:.1f} "
                "at the first"
            )
            raise StepError(text, where=self.job.where("training", "lr"), hint=hint)
        speed = progress.tokens / progress.seconds if progress.seconds else 0.0
        figures = {
            "loss": round(loss, 5),
            "lr": progress.rates[-1],
            "grad_norm": round(norm, 4),
            "tokens_per_second": round(speed, 1),
        }
        self.job.say(
            "metric", step=step, steps=self.schedule.steps, **figures, **memory(self.forward.device)
        )
        self.job.progress("training", step, self.schedule.steps)

    def _evaluate(self) -> bool:
        """True when the held-out rows say that it is enough."""
        if not self.evaluation or not self.evaluation.due(self.step, self.schedule.steps):
            return False
        verdict = self.evaluation.judge(self.step, self.forward, self.weights)
        self.job.say("metric", step=self.step, steps=self.schedule.steps, **self.evaluation.last)
        return verdict is Verdict.ENOUGH

    # The state

    def _keep(self) -> None:
        also = self._also.get(self.step)
        if also:
            also(self.state())
        if self._stop or (self.keeper.due(self.step) and self.step < self.schedule.steps):
            self.keeper.keep(self.state())
        if self._stop:
            raise SystemExit(128 + signal.SIGTERM)

    def state(self) -> State:
        tensors: dict[str, torch.Tensor] = {"rng.cpu": torch.get_rng_state()}
        if self.forward.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.forward.device)
        for name, weight in zip(self.names, self.weights, strict=True):
            tensors[f"weight.{name}"] = weight
            for part in ("exp_avg", "exp_avg_sq"):
                tensors[f"{part}.{name}"] = self.optimizer.state[weight][part]
        if self.evaluation:
            tensors |= {
                f"best.{name}": t for name, t in zip(self.names, self.evaluation.best, strict=False)
            }
            self.progress.evaluation = self.evaluation.figures()
        return State(
            self.step, tensors, vars(self.progress) | {"numerics": dict(self.job.action.numerics)}
        )

    @torch.no_grad()
    def resume(self, state: State) -> bool:
        """Go on from a state; False, and nothing is changed, when it is not one of this
        training.
        """
        given = state.tensors
        wanted = {
            f"{part}.{name}": w
            for part in ("weight", "exp_avg", "exp_avg_sq")
            for name, w in zip(self.names, self.weights, strict=True)
        }
        if any(name not in given or given[name].shape != w.shape for name, w in wanted.items()):
            return False
        progress = Progress(
            **{k: v for k, v in state.figures.items() if k in Progress.__dataclass_fields__}
        )
        self.step, self.progress = state.step, progress
        for name, weight in zip(self.names, self.weights, strict=True):
            weight.copy_(given[f"weight.{name}"])
            moments = {
                part: given[f"{part}.{name}"].to(weight.device)
                for part in ("exp_avg", "exp_avg_sq")
            }
            self.optimizer.state[weight] = {"step": torch.tensor(float(state.step)), **moments}
            if self.optimizer.param_groups[0].get("fused"):
                self.optimizer.state[weight]["step"] = self.optimizer.state[weight]["step"].to(
                    weight.device
                )
        self.trainable.use()
        torch.set_rng_state(given["rng.cpu"])
        if self.forward.device.type == "cuda" and "rng.cuda" in given:
            torch.cuda.set_rng_state(given["rng.cuda"], self.forward.device)
        if self.evaluation:
            self.evaluation.restore(
                progress.evaluation,
                [given[f"best.{n}"] for n in self.names if f"best.{n}" in given],
            )
        return True

    def resume_kept(self) -> None:
        state = read(self.keeper.file)
        if (
            state
            and self.forward.device.type == "cpu"
            and (other := differing(state.figures.get("numerics") or {}, self.job.action.numerics))
        ):
            # On a processor, a training gives one result, whether it was stopped or not: half of
            # each of two would be neither's.
            self.job.note(
                f"an earlier run stopped at step {state.step}, under other numerics "
                f"({'; '.join(other)}): the training begins anew"
            )
            return
        if state and state.step <= self.schedule.steps and self.resume(state):
            self.job.note(
                f"going on from step {self.step} of {self.schedule.steps}, where an earlier run "
                "stopped"
            )

    def also_at(self, step: int, act: Callable[[State], None]) -> None:
        self._also[step] = act

    def _asked_to_stop(self, *_: object) -> None:
        self._stop = True


def memory(device: torch.device) -> dict[str, int]:
    """The memory that a training takes now, for a metric."""
    if device.type == "cuda":
        return {"memory": torch.cuda.max_memory_allocated(device)}
    from olivebuild.core.host import peak_rss

    return {"memory": peak_rss()}
