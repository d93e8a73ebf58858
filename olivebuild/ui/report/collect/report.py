"""Project, plan, traces and history -> the records of a report.

Runs nothing, and renders nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from olivebuild import __version__
from olivebuild.cache.traces import Trace
from olivebuild.core import host
from olivebuild.core.errors import BuildError
from olivebuild.data import drops
from olivebuild.engine.comparison import since_last
from olivebuild.engine.history import Entry
from olivebuild.engine.recorder import history_of, machine_of
from olivebuild.metrics.gates import Judgement
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import State, Verdict
from olivebuild.ui.graph_text import edges
from olivebuild.ui.report.collect import benchmarks, choices, datasets
from olivebuild.ui.report.collect.evidence import Evidence
from olivebuild.ui.report.records import BuildLine, Curve, Report, Target, Training
from olivebuild.ui.wording import describe

MAX_BUILDS = 50
CURVE_POINTS = 120


def collect(project: Project, plan: Plan) -> Report:
    evidence = Evidence(project, plan, history_of(project).read())
    judged = _judged(evidence)
    # In an order in which inputs come first, whatever the recipe's is.
    kinds = {
        name: project.graph.targets[name].kind
        for name in sorted(plan.targets, key=project.graph.order.__getitem__)
    }
    targets = tuple(_target(evidence, name, kind) for name, kind in kinds.items())
    recipe = project.graph.recipe
    return Report(
        name=recipe.folder.name or "/",
        recipe=recipe.file.name,
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        python=platform.python_version(),
        machine=machine_of(plan) or host.describe(),
        libraries={name: version for t in targets for name, version in sorted(t.libraries.items())},
        targets=targets,
        gates=tuple(choices.verdict(j) for j in judged),
        benches=tuple(
            b
            for name, kind in kinds.items()
            if kind == "benchmark" and (b := benchmarks.bench(evidence, name))
        ),
        choices=tuple(
            c
            for name, kind in kinds.items()
            if kind == "choice" and (c := choices.choice(evidence, name))
        ),
        trainings=tuple(
            t
            for name, kind in kinds.items()
            if kind == "adapter"
            and (t := _training(name, evidence.metrics(name), evidence.failed(name)))
        ),
        datasets=tuple(
            d
            for name, kind in kinds.items()
            if kind == "dataset" and (d := datasets.data_set(evidence, name))
        ),
        builds=tuple(
            _line(evidence.entries, entry) for entry in reversed(evidence.entries[-MAX_BUILDS:])
        ),
    )


def _judged(evidence: Evidence) -> list[Judgement]:
    """The gates by the last figures; of a benchmark that is stale and whose gates ask for more,
    none.
    """
    judged = []
    for name in evidence.plan.targets:
        try:
            judged += evidence.project.judge({name: evidence.metrics(name)})
        except BuildError:
            if evidence.plan.states[name].trace:
                raise
    return judged


def _target(evidence: Evidence, name: str, kind: str) -> Target:
    verdict, states = evidence.plan.target(name)
    own, traces = states[-1], [t for s in states if (t := evidence.trace(s.node.name))]
    trace = evidence.trace(name)
    lasts = [last for s in states if (last := evidence.project.workspace.last.get(s.node.name))]
    stale = verdict in (Verdict.STALE, Verdict.WAITING)
    reasons = (
        [r for s in states for r in s.reasons]
        if stale
        else [r for last in lasts for r in last.reasons]
    )
    told = [r for r in reasons if not (r.cause == "input" and r.what == name)]
    # What a target is made of may be new while the target is not; what changed outside says more
    # than what followed from it.
    told = [r for r in told if r.cause != "new"] or told
    why = dict.fromkeys(describe(r) for r in sorted(told, key=lambda r: r.cause == "input"))
    return Target(
        name=name,
        kind=kind,
        verdict=verdict.value,
        outcome=verdict.value if stale else _outcome(evidence, name),
        why=tuple(why),
        inputs=tuple(
            dict.fromkeys(
                source for user, source, _ in edges(evidence.project.graph) if user == name
            )
        ),
        key=own.key or (trace.key if trace else ""),
        digest=next(iter(trace.outputs.values()), "") if trace else "",
        seconds=sum(t.seconds for t in traces) if traces else None,
        size=trace.size if trace and not trace.reference else None,
        peak_rss=max((t.peak_rss for t in traces), default=0) or None,
        facts=_facts(own, trace),
        libraries={p.label: p.value for t in traces for p in t.parts if p.cause == "library"},
    )


def _outcome(evidence: Evidence, name: str) -> str:
    """What the last build that is known did with a target: ran, restored or kept."""
    made = (
        [m.restored for m in evidence.entries[-1].made if m.target == name]
        if evidence.entries
        else []
    )
    return "kept" if not made else "restored" if all(made) else "ran"


def _facts(state: State, trace: Trace | None) -> dict[str, str]:
    """Where it comes from and how it was made: what is no part of its name."""
    source = state.node.source
    found = {"source": source.text} if source else {}
    if trace:
        found |= (
            {p.cause: p.value for p in trace.parts if p.cause == "source"} if not source else {}
        )
        found |= {
            str(k): str(v)
            for k, v in trace.provenance.items()
            if isinstance(v, str | int | float) and v != ""
        }
        found |= {"accepted from": trace.accepted_from} if trace.accepted_from else {}
    return found


def _training(target: str, metrics: Mapping[str, Any], failed: str) -> Training | None:
    if not metrics and not failed:
        return None
    figures = {
        name: f"{value:g}" if isinstance(value, float) else f"{value}"
        for name, value in metrics.items()
        if _plain(value)
    }
    curve = metrics.get("curve")
    curves: list[Curve] = []
    if isinstance(curve, Mapping):
        for x, names in (
            ("step", ("loss", "lr", "grad_norm")),
            ("eval_step", ("eval_loss", "eval_accuracy")),
        ):
            steps = curve.get(x) or []
            curves += [
                Curve(name, thin(list(zip(steps, values, strict=False))))
                for name in names
                if (values := curve.get(name))
            ]
    return Training(target, figures, tuple(curves), "; ".join(drops.all_told(metrics)), failed)


def _plain(value: object) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def thin(
    points: list[tuple[float, float]], most: int = CURVE_POINTS
) -> tuple[tuple[float, float], ...]:
    """At most `most` of the points, the first and the last among them."""
    clean = [(float(x), float(y)) for x, y in points if isinstance(y, int | float) and y == y]
    if len(clean) <= most:
        return tuple(clean)
    return tuple(clean[round(i * (len(clean) - 1) / (most - 1))] for i in range(most))


def _line(entries: list[Entry], entry: Entry) -> BuildLine:
    since = [
        told.partition(": ")[2] for t in entry.measured if (told := since_last(entries, entry, t))
    ]
    return BuildLine(
        number=entry.number,
        time=entry.time,
        ran=sum(not m.restored for m in entry.made),
        restored=sum(m.restored for m in entry.made),
        fresh=entry.fresh,
        seconds=entry.seconds,
        saved=entry.seconds_saved,
        causes=tuple(describe(r) for r in entry.causes[:4]),
        since="; ".join(since),
        missed=tuple(g.gate for g in entry.gates if not g.passed),
        failed=entry.failed,
    )
