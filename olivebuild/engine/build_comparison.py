"""Comparison of a benchmark's metrics before and after: better or worse, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from msgspec.structs import asdict

from olivebuild.cache.key import Reason
from olivebuild.core.errors import RecipeError
from olivebuild.core.text import did_you_mean
from olivebuild.engine.history import Entry, TargetMetrics
from olivebuild.engine.lineage import previous
from olivebuild.metrics.catalogue import BY_NAME, is_share
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.pace import (
    MEASURED,
    RATES,
    SAME_STRUCTURE,
    TIMES,
    Pace,
    measured_as,
    pace_of,
)
from olivebuild.metrics.records import DataMetrics, Metrics, MetricSet, ModelMetrics


class Scale(Enum):
    """The unit of a difference: points of a share, or per cent of the old value."""

    POINTS = "points"
    RATIO = "ratio"


@dataclass(frozen=True)
class Change:
    """A metric of a model before and after; on a data set, unless it is of speed or size."""

    target: str
    model: str
    data: str
    figure: str
    """The metric, by the name that it has in `report --json`."""
    old: float
    new: float
    noise: bool = False
    """Whether other test rows, or another seed of several, would change it as much."""
    why_not_judged: str = ""
    """Why a speed says nothing about the models, such as a busy machine; "" where it does."""

    @property
    def scale(self) -> Scale:
        return Scale.POINTS if is_share(self.figure) else Scale.RATIO

    @property
    def amount(self) -> float:
        """The difference, in points or per cent of the old value."""
        if self.scale is Scale.POINTS:
            return (self.new - self.old) * 100
        return (self.new / self.old - 1) * 100 if self.old else 0.0

    @property
    def better(self) -> bool | None:
        """None when nothing changed, or what changed is not judged."""
        if self.new == self.old or self.why_not_judged:
            return None
        return (self.new > self.old) == (BY_NAME[self.figure].better == "higher")

    @property
    def text(self) -> str:
        """`+1.2 points`, `3 % slower`, `2 % smaller`, `4 % less`, `-0.5 points (noise)`."""
        if self.why_not_judged:
            return "not judged"
        noise = " (noise)" if self.noise else ""
        if self.scale is Scale.POINTS:
            return f"{self.amount:+.1f} points{noise}"
        if abs(self.amount) < 0.5:
            return "equal"
        metric = BY_NAME[self.figure]
        return f"{abs(self.amount):.0f} % {metric.more if self.amount > 0 else metric.less}{noise}"

    def to_json(self) -> dict[str, object]:
        return {
            "target": self.target,
            "model": self.model,
            "data": self.data or None,
            "figure": self.figure,
            "old": self.old,
            "new": self.new,
            "amount": round(self.amount, 6),
            "unit": "points" if self.scale is Scale.POINTS else "%",
            "better": self.better,
            "noise": self.noise,
            "why_not_judged": self.why_not_judged or None,
        }


@dataclass(frozen=True)
class Comparison:
    """Two builds or two models: the changes of metrics, and the causes between the builds."""

    old: str
    new: str
    changes: tuple[Change, ...]
    causes: tuple[Reason, ...] = ()
    same_machine: bool = True
    speeds: Mapping[str, str] = field(default_factory=dict)
    """benchmark -> why its speeds are not judged, or that they are those of one measurement"""

    def to_json(self) -> dict[str, object]:
        return {
            "old": self.old,
            "new": self.new,
            "same_machine": self.same_machine,
            "speeds": dict(self.speeds),
            "causes": [asdict(r) for r in self.causes],
            "changes": [c.to_json() for c in self.changes],
        }


def of_builds(entries: Sequence[Entry], old: Entry, new: Entry) -> Comparison:
    """Return the changes of the metrics that both builds have, and the edits between them."""
    changes: list[Change] = []
    speeds: dict[str, str] = {}
    for target, measured in new.measured.items():
        if target in old.measured:
            before, after = metrics_of(old.measured[target]), metrics_of(measured)
            changes += between(target, before, after)
            if why := why_no_speed(before, after):
                speeds[target] = why
    first, last = sorted((old.number, new.number))
    causes = dict.fromkeys(r for e in entries if first < e.number <= last for r in e.causes)
    same_machine = old.machine == new.machine
    return Comparison(old.name, new.name, tuple(changes), tuple(causes), same_machine, speeds)


def of_models(benchmarks: Mapping[str, Metrics], old: str, new: str) -> Comparison:
    """Return the changes from one model to another, by the benchmarks that measure both.

    Raises RecipeError when none does.
    """
    changes: list[Change] = []
    speeds: dict[str, str] = {}
    for target, metrics in benchmarks.items():
        models = metrics.models
        if old in models and new in models:
            # These have answered the same rows, and the benchmark has compared the two row by row.
            rows = _rows(target, new, models[old], models[new])
            if measured_as(models, old) == measured_as(models, new):
                rows = [c for c in rows if c.figure not in MEASURED]
                speeds[target] = SAME_STRUCTURE
            changes += (replace(c, noise=False) for c in rows)
    if not changes:
        names: dict[str, None] = {}
        for metrics in benchmarks.values():
            names |= dict.fromkeys(metrics.models)
        unknown = old if old not in names else new
        hint = did_you_mean(unknown, names) if names else "`olivebuild` builds a benchmark"
        raise RecipeError(
            f"no benchmark has measured both {old} and {new}", where="command line", hint=hint
        )
    return Comparison(old, new, tuple(changes), speeds=speeds)


def metrics_of(measured: TargetMetrics) -> Metrics:
    """Return a benchmark's metrics as the history has them: without samples, answers, comparisons.

    They are empty for another kind of target, and for what can't be read: the history tells what it
    can.
    """
    try:
        return decode(measured.metrics if measured.kind == "benchmark" else {}, Metrics)
    except ValueError:
        return Metrics()


def between(target: str, old: Metrics, new: Metrics) -> list[Change]:
    """Return every metric that a benchmark had before and has now, model by model.

    Speeds that were measured once for both are none.
    """
    changes: list[Change] = []
    pace = pace_of(old.latency, new.latency)
    for model, row in new.models.items():
        if model in old.models:
            rows = _rows(target, model, old.models[model], row)
            changes += (c for c in (_paced(row, pace) for row in rows) if c)
    return changes


def why_no_speed(old: Metrics, new: Metrics) -> str:
    """Return why the speeds of two builds are not compared; "" where they are, or are none."""
    timed = [row for row in new.models.values() if row.ttft is not None]
    return pace_of(old.latency, new.latency).why if timed else ""


def _paced(change: Change, pace: Pace) -> Change | None:
    """Return a change as the control lets it be judged; None where both are one measurement."""
    if change.figure not in MEASURED:
        return change
    if pace.shared:
        return None
    if pace.why and change.figure in (*TIMES, *RATES):
        return replace(change, why_not_judged=pace.why, noise=False)
    is_noise = change.noise or pace.is_noise(change.figure, change.old, change.new)
    return replace(change, noise=is_noise and change.old != change.new)


def _rows(target: str, model: str, old: ModelMetrics, new: ModelMetrics) -> list[Change]:
    changes: list[Change] = []
    for name, row in new.data.items():
        changes += _changes(target, model, name, old.data.get(name, DataMetrics()), row)
    return changes + _changes(target, model, "", old, new)


def _changes(target: str, model: str, data: str, old: MetricSet, new: MetricSet) -> list[Change]:
    changes = []
    for metric in BY_NAME:
        before, after = old.metric(metric), new.metric(metric)
        if before is None or after is None or before != before or after != after:
            continue
        changes.append(
            Change(
                target=target,
                model=model,
                data=data,
                figure=metric,
                old=before,
                new=after,
                noise=_is_noise(metric, (old, before), (new, after)),
            )
        )
    return changes


def _is_noise(metric: str, old: tuple[MetricSet, float], new: tuple[MetricSet, float]) -> bool:
    """Return whether a change is within the intervals of both.

    As if the two had been judged on rows of their own: the history has no answers to pair.
    """
    change = new[1] - old[1]
    if not change:
        return False
    ends = [
        _facing(row, metric, value, up)
        for (row, value), up in ((old, change > 0), (new, change < 0))
    ]
    spreads = [row.deviation(metric) for row, _ in (old, new)]
    by_rows = all(ends) and abs(change) <= math.hypot(*(end for end in ends if end))
    return bool(
        by_rows
        or (any(spreads) and abs(change) <= 2 * math.hypot(*(spread or 0.0 for spread in spreads)))
    )


def _facing(row: MetricSet, metric: str, value: float, up: bool) -> float | None:
    """Return how far the interval reaches from the metric towards the other's."""
    interval = row.interval(metric)
    return abs(interval[int(up)] - value) if interval else None


def headline(changes: list[Change], *, same_machine: bool = True, no_speed: str = "") -> str:
    """Return a line such as `+1.2 points (noise), 3 % slower`; "" without accuracy and speed.

    It has the last model's accuracy on the first data set, and its speed, or why there is none.
    Speeds of different machines say nothing about the models.
    """
    last = [c for c in changes if c.model == changes[-1].model] if changes else []
    parts = []
    if accuracy := _first_of(last, ("accuracy", "generated_accuracy")):
        parts.append(accuracy.text if accuracy.better is not None else "the same accuracy")
    speed = _first_of(last, ("tokens_per_second", "ttft"))
    if no_speed and same_machine:
        parts.append(no_speed)
    elif speed and same_machine:
        parts.append("as fast" if speed.text == "equal" else speed.text)
    return ", ".join(parts)


def _first_of(changes: Sequence[Change], metrics: Sequence[str]) -> Change | None:
    """Return the first change of the first of the metrics that has one."""
    for metric in metrics:
        for change in changes:
            if change.figure == metric:
                return change
    return None


def since_last(entries: Sequence[Entry], entry: Entry, target: str) -> str:
    """Return a line such as `since build 11: +1.2 points, 3 % slower`; "" without one before."""
    before = previous(entries, entry, target)
    if before is None or target not in entry.measured:
        return ""
    old, new = metrics_of(before.measured[target]), metrics_of(entry.measured[target])
    line = headline(
        between(target, old, new),
        same_machine=before.machine == entry.machine,
        no_speed=why_no_speed(old, new),
    )
    return f"since build {before.number}: {line}" if line else ""
