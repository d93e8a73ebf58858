"""Benchmarks with drawn answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from olivebuild.metrics.records import Metrics, read_metrics
from olivebuild.metrics.scoring import Judged, metrics_of

Model = Callable[[str, np.random.Generator], str]
"""A label that is expected -> the one that is answered."""


def rows(shares: Mapping[str, float], count: int, random: np.random.Generator) -> list[str]:
    """Labels of test rows, drawn by their shares."""
    return [str(x) for x in random.choice(list(shares), count, p=list(shares.values()))]


def accurate(accuracy: float, labels: Sequence[str]) -> Model:
    """A model that is right so often, and else answers any other label."""

    def answer(expected: str, random: np.random.Generator) -> str:
        others = [label for label in labels if label != expected]
        return expected if random.random() < accuracy else str(random.choice(others))

    return answer


def judged(expected: Sequence[str], answered: Sequence[str]) -> dict[str, Any]:
    """The metrics of a model on a data set, as its node writes them."""
    rows = [
        Judged(want, want, label, label, 0.1, 1)
        for want, label in zip(expected, answered, strict=True)
    ]
    return metrics_of(rows, labelled=True, written=True)


def benchmark(
    expected: Sequence[str], models: Mapping[str, Sequence[str]], **more: object
) -> Metrics:
    """A benchmark with one data set, `tone`."""
    row = {name: {"data": {"tone": judged(expected, answers)}} for name, answers in models.items()}
    return read_metrics({"models": row, "data": ["tone"], **more}, "bench")
