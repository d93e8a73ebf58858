"""Latency of models that take turns.

Each is loaded in a process of its own, and in every round each runs once, so that a busy machine
hits all alike. So does a control, whose work is always the same: rounds in which it had to share
its cores are left out, unless too few are left; then the metrics say that the machine was busy.

The rounds end when every model's times are known well enough, or at a limit. Where memory does not
hold all models at once, each has its rounds alone, and the metrics say so. Models of one structure
are measured once.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from olivebuild.api.action import ActionInput
from olivebuild.core import host
from olivebuild.core.errors import StepError
from olivebuild.core.fs.files import files_below
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.processes import python
from olivebuild.metrics.statistics import median_interval
from olivebuild.ml.benchmark.control import BUSY, Control, Ended, record_of
from olivebuild.steps.measurements.latency import LatencyFields

REST = 0.05
"""Seconds between turns: threads that wait actively for more work would take cores from the next
model.
"""
OVERHEAD = 600e6
"""What a runtime takes beside the weights, in bytes."""
Progress = Callable[[int, int], None]


@dataclass
class Samples:
    """Results of one model's rounds: seconds to each token, a list a round."""

    loaded: dict[str, Any]
    times: list[list[float]] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)
    peak_rss: int = 0
    gpu_memory: int | None = None

    def add(self, said: dict[str, Any]) -> None:
        self.times.append(said["times"])
        self.joules.append(said["joules"])
        self.peak_rss, self.gpu_memory = max(self.peak_rss, said["peak_rss"]), said["gpu_memory"]

    @property
    def first(self) -> list[float]:
        return [times[0] for times in self.times]

    @property
    def total(self) -> list[float]:
        return [times[-1] for times in self.times]

    @property
    def each(self) -> list[float]:
        """Seconds a token, the first excluded; a round each."""
        return [(times[-1] - times[0]) / (len(times) - 1) for times in self.times if len(times) > 1]

    @property
    def gaps(self) -> list[float]:
        return [b - a for times in self.times for a, b in itertools.pairwise(times)]

    def only(self, rounds: Sequence[int]) -> Samples:
        """Return the samples of some rounds."""
        return replace(
            self,
            times=[self.times[i] for i in rounds],
            joules=[self.joules[i] for i in rounds if i < len(self.joules)],
        )

    def tight(self, tolerance: float) -> bool:
        return all(_is_tight(values, tolerance) for values in (self.first, self.each) if values)


def _is_tight(values: list[float], tolerance: float) -> bool:
    interval = median_interval(values)
    return interval is not None and interval[1] - interval[0] <= 2 * tolerance * median(values)


class Stopwatch:
    """A model in a process of its own, which ends when its standard input does.

    With us at the latest.
    """

    def __init__(self, model: ActionInput, fields: LatencyFields, adapter: str = "") -> None:
        settings = {
            **fields.model_dump(),
            "trust_remote_code": model.trust_remote_code,
            "adapter": adapter,
        }
        command = python(
            "-m", "olivebuild.ml.benchmark.stopwatch", model.folder, json.dumps(settings)
        )
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.samples = Samples(self._hear())

    def run(self) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except OSError:
            raise Ended from None
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise Ended
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Timed(NamedTuple):
    """A model to be measured, with the folder of the adapter in its slots, if there is one."""

    model: ActionInput
    adapter: str = ""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Models that took turns: the samples of the rounds that count, and of the control all."""

    samples: list[Samples]
    control: Control
    kept: list[int]
    stopped: str


def measure(
    models: Sequence[ActionInput],
    fields: LatencyFields,
    progress: Progress,
    structures: Sequence[object] | None = None,
    adapters: Sequence[str] = (),
) -> dict[str, Any]:
    """{"models": [metrics], "latency": how they were measured}.

    `structures` are those of the models: equal ones are measured once. `adapters` are the folders
    of what is in their slots, "" for nothing. Raises StepError when a model does not run.
    """
    for model in models:
        _check_context(model, fields)
    firsts = _firsts(structures or range(len(models)))
    timed = list(map(Timed, models, adapters or [""] * len(models)))
    measured = [timed[i] for i in dict.fromkeys(firsts)]
    started = datetime.now(UTC)
    turns = _together(measured, fields, progress)
    together = bool(turns)
    turns = turns or _alone(measured, fields, progress)
    control = record_of([t.control for t in turns], [t.kept for t in turns])
    samples = [row for t in turns for row in t.samples]
    about: dict[str, Any] = {
        "prompt_tokens": fields.prompt_tokens,
        "new_tokens": fields.new_tokens,
        "warmup": fields.warmup,
        "rounds": len(samples[0].times),
        "rounds_left_out": sum(len(t.control.seconds) - len(t.kept) for t in turns),
        "interleaved": together,
        "why_stopped": next(
            (why for why in ("time", "rounds") if why in {t.stopped for t in turns}), "tight"
        ),
        "measured_at": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "control": control,
        "busy": round(control["stretch"], 2) if control["stretch"] > BUSY else None,
        "machine": host.describe(),
    }
    rows = {i: _metrics_of(s, fields) for i, s in zip(dict.fromkeys(firsts), samples, strict=True)}
    return {
        "models": [
            rows[first] | ({"same_structure_as": models[first].target} if first != i else {})
            for i, first in enumerate(firsts)
        ],
        "latency": about,
    }


def _firsts(structures: Iterable[object]) -> list[int]:
    """Return for each structure the number of the first one that equals it."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(json.dumps(s), i) for i, s in enumerate(structures)]


def _together(models: Sequence[Timed], fields: LatencyFields, progress: Progress) -> list[Turns]:
    """Return the turns of all models at once; nothing where memory does not hold them."""
    if len(models) < 2 or sum(_memory(t.model) for t in models) >= host.available_memory():
        return []
    try:
        return [_turns(models, fields, progress)]
    except Ended:
        # It may be another kind of memory that did not suffice, a GPU's; alone the model runs,
        # or fails for a reason of its own.
        return []


def _alone(models: Sequence[Timed], fields: LatencyFields, progress: Progress) -> list[Turns]:
    """Return the turns of each model alone. Raises StepError when one does not run."""
    turns = []
    for i, model in enumerate(models):

        def count(done: int, total: int, i: int = i) -> None:
            progress(i * total + done, total * len(models))

        try:
            turns.append(_turns([model], fields, count))
        except Ended:
            raise StepError(
                f"{model.model.target} could not be measured", hint="the log has the whole story"
            ) from None
    return turns


def _check_context(model: ActionInput, fields: LatencyFields) -> None:
    """Raises StepError when an ONNX model takes fewer tokens than are to be measured."""
    file = Path(model.folder, "genai_config.json")
    wanted = fields.prompt_tokens + fields.new_tokens
    said = read_json(file).get("model", {}).get("context_length") if file.is_file() else None
    context = int(said) if said else wanted
    if wanted > context:
        fact = (
            f"{model.target} takes {context} tokens, and the latency of {fields.prompt_tokens} + "
            f"{fields.new_tokens} is asked"
        )
        raise StepError(fact, hint="fewer latency.prompt_tokens or latency.new_tokens")


def _turns(models: Sequence[Timed], fields: LatencyFields, progress: Progress) -> Turns:
    """Let models and a control take turns until enough is known. Raises Ended."""
    watches: list[Stopwatch] = []
    control: Control | None = None
    try:
        for model, adapter in models:
            watches.append(Stopwatch(model, fields, adapter))
        on_gpu = any(watch.samples.loaded["provider"] != "cpu" for watch in watches)
        control = Control(host.physical_cores(), gpu=on_gpu)
        for _ in range(fields.warmup):
            control.run()
            for watch in watches:
                watch.run()
        control.forget()
        start = time.monotonic()
        for done in itertools.count():
            _round(watches, control, done)
            quiet = [i for i, stretch in enumerate(control.stretch) if stretch <= BUSY]
            rows, seconds = [watch.samples for watch in watches], time.monotonic() - start
            stopped = _why_stop(rows, quiet, fields, done + 1, seconds)
            expected = _expected_rounds(rows, fields, done + 1, seconds)
            progress(done + 1, done + 1 if stopped else expected)
            if stopped:
                break
        kept = quiet if len(quiet) >= fields.rounds else list(range(done + 1))
        return Turns(
            samples=[row.only(kept) for row in rows], control=control, kept=kept, stopped=stopped
        )
    finally:
        for process in (*watches, *([control] if control else ())):
            process.close()


def _round(watches: Sequence[Stopwatch], control: Control, number: int) -> None:
    """Let each run once. Each begins a round in its turn, so that none always follows the same."""
    turns: list[Stopwatch | Control] = [*watches, control]
    for i in range(len(turns)):
        time.sleep(REST)
        one = turns[(number + i) % len(turns)]
        if isinstance(one, Control):
            one.run()
        else:
            one.samples.add(one.run())


def _why_stop(
    rows: Sequence[Samples], quiet: Sequence[int], fields: LatencyFields, done: int, seconds: float
) -> str:
    """Return why the rounds end; "" while they go on.

    `quiet` are the rounds in which the machine did nothing else. Where it always does, twice the
    rounds are enough to know that.
    """
    if len(quiet) >= fields.rounds and all(r.only(quiet).tight(fields.tolerance) for r in rows):
        return "tight"
    always_busy = done >= 2 * fields.rounds and 2 * len(quiet) < done
    if always_busy and all(row.tight(fields.tolerance) for row in rows):
        return "tight"
    if done >= max(fields.rounds, fields.max_rounds):
        return "rounds"
    return "time" if seconds >= fields.max_seconds else ""


def _expected_rounds(
    rows: Sequence[Samples], fields: LatencyFields, done: int, seconds: float
) -> int:
    """Return how many rounds there will be, as far as `done` of them tell.

    An interval shrinks with the square root of the rounds.
    """
    needed = float(fields.rounds)
    for values in (values for row in rows for values in (row.first, row.each) if values):
        if interval := median_interval(values):
            wide = (interval[1] - interval[0]) / (2 * fields.tolerance * median(values))
            needed = max(needed, done * wide**2)
    in_time = done + (fields.max_seconds - seconds) / seconds * done
    limit = min(max(fields.rounds, fields.max_rounds), in_time)
    return max(done + 1, math.ceil(min(needed, limit)))


def _memory(model: ActionInput) -> float:
    """Return about what a model takes in memory, in bytes.

    transformers computes in float32 on a processor, and most weights are stored in 16 bits.
    """
    wide = not Path(model.folder, "genai_config.json").is_file() and not host.gpu_names()
    return _size(model) * (2.2 if wide else 1.2) + OVERHEAD


def _size(model: ActionInput) -> int:
    return sum(p.stat().st_size for p in files_below(Path(model.folder)))


def _metrics_of(samples: Samples, fields: LatencyFields) -> dict[str, Any]:
    first, each, total, gaps = samples.first, samples.each, samples.total, samples.gaps
    joules = [j for j in samples.joules if j is not None]
    metrics: dict[str, Any] = {
        **samples.loaded,
        "ttft": median(first),
        "ttft_interval": median_interval(first),
        "ttft_p95": float(np.percentile(first, 95)),
        "tpot": median(each) if each else None,
        "tpot_interval": median_interval(each),
        "e2e": median(total),
        "e2e_interval": median_interval(total),
        "prompt_tokens_per_second": fields.prompt_tokens / median(first),
        "tokens_per_second": 1 / median(each) if each else None,
        "peak_rss": samples.peak_rss,
        "gpu_memory": samples.gpu_memory,
        "joules": median(joules) if joules else None,
        "joules_per_token": median(joules) / fields.new_tokens if joules else None,
    }
    metrics |= {f"itl_p{p}": float(np.percentile(gaps, p)) if gaps else None for p in (50, 95, 99)}
    return metrics | {"samples": {"ttft": first, "tpot": each, "e2e": total, "gaps": gaps}}
