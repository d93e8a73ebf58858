"""Diagnostics of a plan: those that benchmarks recorded, and those of trainings and data sets.

A benchmark's stand in its metrics. A training's curve and a data set's drops are judged here, from
their traces, so that what was trained by an older version is judged, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from olivebuild.metrics.diagnostics.diagnostic import Diagnostic, ordered

if TYPE_CHECKING:
    from olivebuild.planner.plan import Plan
    from olivebuild.planner.project import Project

MetricsOf = Callable[[str], Mapping[str, Any]]


def diagnose(project: Project, plan: Plan) -> tuple[Diagnostic, ...]:
    """Return the diagnostics of all targets of a plan that have a result, errors first."""
    kinds = {name: project.graph.targets[name].kind for name in plan.targets}

    def metrics_of(target: str) -> Mapping[str, Any]:
        state = plan.states[target]
        trace = state.trace or (project.planner.traces.get(state.key) if state.key else None)
        return trace.metrics if trace else {}

    return of_traces(kinds, metrics_of)


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
        return msgspec.convert(metrics.get("diagnostics") or (), tuple[Diagnostic, ...])
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
