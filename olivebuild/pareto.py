"""Which models of a benchmark are worth having: the Pareto front of accuracy, speed and size, and
the best under gates.

Reads the figures of a benchmark; knows neither targets nor files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from olivebuild.gates import FIGURES, OF_ANSWERS, Gate, Judgement, judge

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
    """`quality` and `speed` name the figures that were compared, the first in the data set
    `data`.
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


def front(metrics: Mapping[str, Any]) -> Front | None:
    """Over all models of a benchmark that were timed; None where they have no figures in common."""
    rows, data = (
        {name: row for name, row in metrics["models"].items() if "size" in row},
        metrics["data"][0],
    )
    quality = next(
        (
            q
            for q in QUALITIES
            if all(row["data"][data].get(q) is not None for row in rows.values())
        ),
        None,
    )
    speed = next((s for s in SPEEDS if all(row.get(s) for row in rows.values())), None)
    if not rows or quality is None or speed is None:
        return None
    points = [
        Point(
            name,
            _upward(quality, row["data"][data][quality]),
            _speed(speed, row[speed]),
            -float(row["size"]),
        )
        for name, row in rows.items()
    ]
    found = []
    for point in points:
        beaten_by = next((other.model for other in points if other.beats(point)), "")
        found.append(Point(point.model, point.quality, point.speed, point.size, beaten_by))
    return Front(quality, data, speed, tuple(found))


def _upward(figure: str, value: float) -> float:
    return -float(value) if FIGURES.get(figure, ("higher",))[0] == "lower" else float(value)


def _speed(figure: str, value: float) -> float:
    # A share of a time only means something if it is turned into a rate.
    return 1 / float(value) if FIGURES[figure][0] == "lower" else float(value)


@dataclass(frozen=True)
class Candidate:
    """A model with what its gates say.

    `value`: the figure by which is chosen, such that more is better.
    """

    model: str
    value: float
    judgements: tuple[Judgement, ...]

    @property
    def passes(self) -> bool:
        return all(j.passed for j in self.judgements)


def ranked(
    target: str,
    metrics: Mapping[str, Any],
    models: Iterable[str],
    figure: str,
    gates: Iterable[Gate],
) -> list[Candidate]:
    """Best first, those that meet all gates before those that don't; of equals the better, then the
    smaller, then the one listed first.

    A gate that names no model judges each. Raises KeyError when there is no such figure,
    RecipeError and BuildError as gates do.
    """
    gates = list(gates)
    known = front(metrics)
    qualities = {p.model: p.quality for p in known.points} if known else {}
    found = []
    for model in models:
        last = {name: row for name, row in metrics["models"].items() if name != model} | {
            model: metrics["models"][model]
        }
        found.append(
            Candidate(
                model,
                value_of(metrics, model, figure),
                tuple(judge(target, gates, {**metrics, "models": last})),
            )
        )
    return sorted(
        found,
        key=lambda c: (
            not c.passes,
            -c.value,
            -qualities.get(c.model, 0),
            metrics["models"][c.model]["size"],
        ),
    )


def value_of(metrics: Mapping[str, Any], model: str, figure: str) -> float:
    """`size`, `accuracy` or, for another than the first data set, `hard.accuracy`; such that more
    is better.
    """
    data, _, name = figure.rpartition(".")
    row = metrics["models"][model]
    if name in FIGURES and name not in OF_ANSWERS:
        return _upward(name, row[name])
    of_data = row["data"][data or metrics["data"][0]]
    return _upward(name, of_data[name] if name in OF_ANSWERS else of_data["scores"][name])
