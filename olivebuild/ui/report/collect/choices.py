"""A choice -> its records: its candidates, their Pareto front, and each gate's judgement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from olivebuild.core.errors import BuildError
from olivebuild.metrics import pareto
from olivebuild.metrics.gates import Gate, Judgement
from olivebuild.metrics.records import read_choice
from olivebuild.ui.report.records import Choice, Contender
from olivebuild.ui.report.records import Gate as Verdict
from olivebuild.ui.wording import gate_note, gate_value

if TYPE_CHECKING:
    from olivebuild.metrics.records import Metrics
    from olivebuild.ui.report.collect.evidence import Evidence


def choice(evidence: Evidence, target: str) -> Choice | None:
    """Return a choice by its benchmark's last metrics; None when those it needs are missing."""
    from olivebuild.steps.choice import ChoiceFields

    fields = evidence.project.graph.recipe.targets[target].fields
    assert isinstance(fields, ChoiceFields)
    bench, metrics = fields.by.target, evidence.benchmark(fields.by.target)
    if not metrics.models:
        return None
    names = [
        source.target
        for _, source, _ in evidence.project.graph.inputs[target]
        if source.kind == "onnx" and source.target in metrics.models
    ]
    front = pareto.front(metrics)
    axes = (front.quality, front.speed, "size") if front else ("size",)
    try:
        gates = [
            Gate.parse(text, metrics.score_names, list(metrics.commands), strict=fields.strict)
            for text in fields.gates
        ]
        ranked = pareto.ranked(target, metrics, names, fields.best, gates)
        figures = {
            name: _figures(metrics, name, dict.fromkeys((*axes, fields.best)))
            for name in metrics.models
        }
    except (BuildError, KeyError, ValueError):
        return None
    beaten = {p.model: p.beaten_by for p in front.points} if front else {}
    judged = {c.model: tuple(map(verdict, c.judgements)) for c in ranked}
    others = [name for name in metrics.models if name not in names]
    contenders = tuple(
        Contender(name, figures[name], beaten.get(name, ""), judged.get(name))
        for name in [*judged, *others]
    )
    return Choice(
        target=target,
        bench=bench,
        by=fields.best,
        chosen=read_choice(evidence.metrics(target), target).chosen,
        best=next((c.model for c in ranked if c.passes), ""),
        axes=axes,
        gates=tuple(fields.gates),
        limits=tuple(
            (".".join((*g.names, g.metric)), g.limit) for g in gates if not (g.versus or g.command)
        ),
        contenders=contenders,
    )


def _figures(metrics: Metrics, model: str, names: Iterable[str]) -> dict[str, float]:
    return {name: abs(pareto.value_of(metrics, model, name)) for name in names}


def verdict(judged: Judgement) -> Verdict:
    """Return a judgement of a gate as a record, with its values in words."""
    return Verdict(
        target=judged.target,
        text=judged.gate,
        value=gate_value(judged.gate, judged.value),
        passed=judged.passed,
        state=judged.state,
        fails=judged.fails,
        interval=judged.interval,
        rows_needed=judged.rows_needed,
        note=gate_note(judged),
    )
