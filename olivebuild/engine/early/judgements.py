"""Early decisions as the judgements of gates, and beside what all rows say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from olivebuild.core.errors import RecipeError
from olivebuild.engine.build_report import BuildReport
from olivebuild.recipe.graph import Graph

if TYPE_CHECKING:
    from olivebuild.metrics.gates import Judgement


def check_gates(graph: Graph, goals: Iterable[str]) -> None:
    """Raise RecipeError where no goal is a benchmark with gates: nothing would be decided."""
    names = list(goals)
    outlines = [graph.targets[name] for name in names]
    if not any(outline.gated and outline.kind == "benchmark" for outline in outlines):
        raise RecipeError(
            f"there is nothing to decide: no gates in {', '.join(names)}",
            where="--decide",
            hint="name a benchmark that has `gates`",
        )


def early_judgements(report: BuildReport) -> list[Judgement]:
    """Return the decided gates of the benchmarks that `--decide` ended."""
    if not report.stopped:
        return []
    from olivebuild.metrics.gates import Judgement

    return [
        Judgement(
            target=target,
            gate=gate,
            value=standing.value,
            passed=standing.state == "met",
            state=standing.state,
            interval=standing.interval,
            strict=standing.strict,
            is_drop=standing.is_drop,
        )
        for (target, gate), standing in report.early.items()
        if target in report.stopped and standing.state
    ]


def differing(report: BuildReport, judgements: Iterable[Judgement]) -> list[Judgement]:
    """Return the gates of which all rows say something else than was told early."""
    return [
        judged
        for judged in judgements
        if (standing := report.early.get((judged.target, judged.gate)))
        and standing.state != judged.state
    ]
