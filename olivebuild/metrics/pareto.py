"""The Pareto front of a benchmark's models of accuracy, speed and size, and the best under gates.

Reads the metrics of a benchmark; knows neither targets nor files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import structs

from olivebuild.metrics.gates import METRICS, OF_ANSWERS, Gate, Judgement, judge

if TYPE_CHECKING:
    from olivebuild.metrics.records import Metrics, MetricSet

QUALITIES = ("accuracy", "field_exact", "generated_accuracy", "perplexity")
SPEEDS = ("e2e", "tokens_per_second")
NOISE = 0.05
"""Speeds that differ by less are taken for equal."""


@dataclass(frozen=True)
class Point:
    """A model on the three axes, each such that more is better.

    `beaten_by`: a model that is as good in all and better in one.
    """

    model: str
    quality: float
    speed: float
    size: float
    beaten_by: str = ""

    def beats(self, other: Point) -> bool:
        faster, slower = (
            self.speed > other.speed * (1 + NOISE),
            other.speed > self.speed * (1 + NOISE),
        )
        no_worse = self.quality >= other.quality and self.size >= other.size and not slower
        return no_worse and (self.quality > other.quality or self.size > other.size or faster)


@dataclass(frozen=True)
class Front:
    """The Pareto front of a benchmark's models.

    `quality` and `speed` name the metrics that were compared, the first in the data set `data`.
    """

    quality: str
    data: str
    speed: str
    points: tuple[Point, ...]

    def to_json(self) -> dict[str, object]:
        beaten = {p.model: p.beaten_by for p in self.points if p.beaten_by}
        best = [p.model for p in self.points if not p.beaten_by]
        return {
            "quality": self.quality,
            "data": self.data,
            "speed": self.speed,
            "front": best,
            "beaten_by": beaten,
        }


def front(metrics: Metrics) -> Front | None:
    """Return the front of all models of a benchmark that were timed.

    None where they have no metrics in common.
    """
    rows = {name: row for name, row in metrics.models.items() if row.size is not None}
    data = metrics.data[0]
    quality = _measured_by_all(QUALITIES, [row.data[data] for row in rows.values()])
    speed = _measured_by_all(SPEEDS, rows.values())
    if not (rows and quality and speed):
        return None
    points = [
        Point(
            model=name,
            quality=value_of(metrics, name, quality),
            speed=_speed(speed, row.metric(speed) or 0.0),
            size=-(row.size or 0.0),
        )
        for name, row in rows.items()
    ]
    points = [replace(point, beaten_by=_beaten_by(point, points)) for point in points]
    return Front(quality=quality, data=data, speed=speed, points=tuple(points))


def _measured_by_all(names: Iterable[str], rows: Collection[MetricSet]) -> str:
    """Return the first metric that every row has; "" if there is none."""
    for name in names:
        values = [row.metric(name) for row in rows]
        # A time or a rate of nothing was not measured.
        if all(value is not None and (value or name not in SPEEDS) for value in values):
            return name
    return ""


def _beaten_by(point: Point, points: Iterable[Point]) -> str:
    return next((other.model for other in points if other.beats(point)), "")


def _upward(metric: str, value: float) -> float:
    return -value if METRICS.get(metric, ("higher",))[0] == "lower" else value


def _speed(metric: str, value: float) -> float:
    # A share of a time only means something if it is turned into a rate.
    return 1 / value if METRICS[metric][0] == "lower" else value


@dataclass(frozen=True)
class Candidate:
    """A model with what its gates say.

    `value`: the metric by which is chosen, such that more is better.
    """

    model: str
    value: float
    judgements: tuple[Judgement, ...]

    @property
    def passes(self) -> bool:
        return all(j.may_pass for j in self.judgements)


def ranked(
    target: str,
    metrics: Metrics,
    models: Iterable[str],
    metric: str,
    gates: Iterable[Gate],
) -> list[Candidate]:
    """Return candidates, best first, those that meet all gates before those that don't.

    Of equals the better, then the smaller, then the one listed first.

    A gate that names no model judges each. Raises KeyError when there is no such metric,
    RecipeError and BuildError as gates do.
    """
    gates = list(gates)
    pareto = front(metrics)
    qualities = {p.model: p.quality for p in pareto.points} if pareto else {}
    candidates = []
    for model in models:
        # A gate that names no model means the last one.
        others = {name: row for name, row in metrics.models.items() if name != model}
        last = structs.replace(metrics, models=others | {model: metrics.models[model]})
        value = value_of(metrics, model, metric)
        candidates.append(Candidate(model, value, tuple(judge(target, gates, last))))
    return sorted(
        candidates,
        key=lambda c: (
            not c.passes,
            -c.value,
            -qualities.get(c.model, 0),
            metrics.models[c.model].size or 0.0,
        ),
    )


def value_of(metrics: Metrics, model: str, metric: str) -> float:
    """Return a metric such that more is better.

    `size`, `accuracy` or, for another than the first data set, `hard.accuracy`.

    Raises KeyError where it was not measured.
    """
    data, _, name = metric.rpartition(".")
    row = metrics.models[model]
    if name in METRICS and name not in OF_ANSWERS:
        value = row.metric(name)
    else:
        value = row.data[data or metrics.data[0]].metric(name)
    if value is None:
        raise KeyError(metric)
    return _upward(name, value)
