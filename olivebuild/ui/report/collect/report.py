"""Project, plan, traces and history -> the records of a report.

Runs nothing, and renders nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from olivebuild import __version__
from olivebuild.cache.key import Reason
from olivebuild.cache.traces import Trace
from olivebuild.core import host
from olivebuild.core.errors import BuildError
from olivebuild.engine.build_comparison import since_last
from olivebuild.engine.history import Entry
from olivebuild.engine.recorder import history_of, machine_of
from olivebuild.metrics.diagnostics.traces import of_traces
from olivebuild.metrics.gates import Judgement, summary
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import State, Verdict
from olivebuild.ui.graph_text import edges
from olivebuild.ui.report.collect import benchmarks, choices, datasets, trainings
from olivebuild.ui.report.collect.decision import decision
from olivebuild.ui.report.collect.evidence import Evidence
from olivebuild.ui.report.records import BuildLine, Report, Target
from olivebuild.ui.wording import describe

T = TypeVar("T")
MAX_BUILDS = 50


def collect(project: Project, plan: Plan) -> Report:
    """Return the records of a project's report."""
    evidence = Evidence(project, plan, history_of(project).read())
    # Inputs come first here, whatever the recipe's order is.
    names = sorted(plan.targets, key=project.graph.order.__getitem__)
    of_kind: dict[str, list[str]] = {}
    for name in names:
        of_kind.setdefault(project.graph.targets[name].kind, []).append(name)
    gates = tuple(map(choices.verdict, _judgements(evidence)))
    targets = tuple(_target(evidence, name) for name in names)
    benches = _records(benchmarks.bench, evidence, of_kind.get("benchmark", ()))
    choosing = _records(choices.choice, evidence, of_kind.get("choice", ()))
    kinds = {name: project.graph.targets[name].kind for name in names}
    diagnostics = of_traces(kinds, evidence.metrics)
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
        decision=decision(evidence, gates, benches, choosing, diagnostics),
        diagnostics=diagnostics,
        gates=gates,
        benches=benches,
        choices=choosing,
        trainings=_records(trainings.training, evidence, of_kind.get("adapter", ())),
        datasets=_records(datasets.data_set, evidence, of_kind.get("dataset", ())),
        builds=tuple(_line(evidence, entry) for entry in reversed(evidence.entries[-MAX_BUILDS:])),
    )


def _records(
    collect_one: Callable[[Evidence, str], T | None], evidence: Evidence, targets: Iterable[str]
) -> tuple[T, ...]:
    """Return the records of targets, without those that have nothing to show."""
    records = (collect_one(evidence, target) for target in targets)
    return tuple(record for record in records if record is not None)


def _judgements(evidence: Evidence) -> list[Judgement]:
    """Return the gates' judgements of the last metrics.

    A stale benchmark whose gates need more than it measured has none.
    """
    judgements = []
    for name in evidence.plan.targets:
        try:
            judgements += evidence.project.judge({name: evidence.metrics(name)})
        except BuildError:
            if evidence.plan.states[name].trace:
                raise
    return judgements


def _target(evidence: Evidence, name: str) -> Target:
    project = evidence.project
    verdict, states = evidence.plan.target(name)
    traces = [trace for s in states if (trace := evidence.trace(s.node.name))]
    trace = evidence.trace(name)
    stale = verdict in (Verdict.STALE, Verdict.WAITING)
    inputs = dict.fromkeys(source for user, source, _ in edges(project.graph) if user == name)
    return Target(
        name=name,
        kind=project.graph.targets[name].kind,
        verdict=verdict.value,
        outcome=verdict.value if stale else _outcome(evidence, name),
        why=_why(evidence, name, states, stale),
        inputs=tuple(inputs),
        key=states[-1].key or (trace.key if trace else ""),
        digest=next(iter(trace.outputs.values()), "") if trace else "",
        seconds=sum(t.seconds for t in traces) if traces else None,
        size=trace.size if trace and not trace.reference else None,
        peak_rss=max((t.peak_rss for t in traces), default=0) or None,
        facts=_facts(states[-1], trace),
        libraries={p.label: p.value for t in traces for p in t.parts if p.cause == "library"},
    )


def _why(evidence: Evidence, target: str, states: list[State], stale: bool) -> tuple[str, ...]:
    """Return why a target will run, or why it last ran, changes from outside first."""
    reasons: list[Reason] = []
    for state in states:
        last = evidence.project.workspace.last.get(state.node.name)
        reasons += state.reasons if stale else last.reasons if last else ()
    reasons = [r for r in reasons if not (r.cause == "input" and r.what == target)]
    # A node of a target may be new while the target is not; a change from outside says more than
    # what followed from it.
    reasons = [r for r in reasons if r.cause != "new"] or reasons
    reasons.sort(key=lambda r: r.cause == "input")
    return tuple(dict.fromkeys(map(describe, reasons)))


def _outcome(evidence: Evidence, target: str) -> str:
    """Return what the last recorded build did with a target: "ran", "restored" or "kept"."""
    runs = evidence.last.made if evidence.last else ()
    restored = [run.restored for run in runs if run.target == target]
    if not restored:
        return "kept"
    return "restored" if all(restored) else "ran"


def _facts(state: State, trace: Trace | None) -> dict[str, str]:
    """Return a target's source and provenance."""
    source = state.node.source
    facts = {"source": source.text} if source else {}
    if trace is None:
        return facts
    if not source:
        facts |= {p.cause: p.value for p in trace.parts if p.cause == "source"}
    for name, value in trace.provenance.items():
        if isinstance(value, str | int | float) and value != "":
            facts[str(name)] = str(value)
    if trace.accepted_from:
        facts["accepted from"] = trace.accepted_from
    return facts


def _line(evidence: Evidence, entry: Entry) -> BuildLine:
    changes = (since_last(evidence.entries, entry, target) for target in entry.measured)
    here = evidence.last.folder if evidence.last else ""
    since = [change.partition(": ")[2] for change in changes if change]
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
        gates=summary(g.outcome for g in entry.gates),
        missed=tuple(g.gate for g in entry.gates if g.outcome == "missed"),
        failed=entry.failed,
        # A page may be passed on, so it has no path of this machine.
        folder="" if entry.folder in (here, "") else Path(entry.folder).name,
    )
