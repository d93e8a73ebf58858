"""Diagnostics of targets by their traces: what benchmarks recorded, and trainings and data sets.

A benchmark's stand in its metrics. A training's curve and a data set's drops are judged here, from
their traces, so that what was trained by an older version is judged, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from olivebuild.core.values.typed import convert
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic, ordered

MetricsOf = Callable[[str], Mapping[str, Any]]


def of_traces(kinds: Mapping[str, str], metrics_of: MetricsOf) -> tuple[Diagnostic, ...]:
    """Return the diagnostics of targets, whose kinds are given, by the metrics of their traces."""
    return ordered(
        diagnostic
        for target, kind in kinds.items()
        if kind in _JUDGES
        for diagnostic in _JUDGES[kind](target, metrics_of(target))
    )


def _of_benchmark(_: str, metrics: Mapping[str, Any]) -> Iterable[Diagnostic]:
    """Return what a benchmark recorded; nothing where another program spoilt it."""
    try:
        return convert(metrics.get("diagnostics") or (), tuple[Diagnostic, ...])
    except msgspec.ValidationError:
        return ()


def _of_adapter(target: str, metrics: Mapping[str, Any]) -> Iterator[Diagnostic]:
    from olivebuild.metrics.diagnostics.rows import of_drops
    from olivebuild.metrics.diagnostics.training import of_training

    yield from of_training(target, metrics)
    yield from of_drops(target, metrics)


def _of_data_set(target: str, metrics: Mapping[str, Any]) -> Iterator[Diagnostic]:
    from olivebuild.metrics.diagnostics.rows import of_drops

    yield from of_drops(target, metrics)


_JUDGES: Mapping[str, Callable[[str, Mapping[str, Any]], Iterable[Diagnostic]]] = {
    "benchmark": _of_benchmark,
    "adapter": _of_adapter,
    "dataset": _of_data_set,
}
