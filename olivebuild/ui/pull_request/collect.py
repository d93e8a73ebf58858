"""Facts of a pull request: what its build would run, its gates, and the answers that it changes.

Nothing is run. What a remote cache has counts as made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from olivebuild.cache.key import compare
from olivebuild.core.errors import BuildError
from olivebuild.core.streams import plain
from olivebuild.metrics.gates import Judgement
from olivebuild.planner.checks.all_checks import problems
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import State, Verdict
from olivebuild.ui.pull_request.records import (
    Answers,
    ChangedRow,
    GateLine,
    Planned,
    PullRequestReport,
)
from olivebuild.ui.report.collect.answers import between_checkouts
from olivebuild.ui.report.collect.evidence import Evidence
from olivebuild.ui.report.records import Flips
from olivebuild.ui.why import unique_reasons
from olivebuild.ui.wording import describe, format_metric

if TYPE_CHECKING:
    from olivebuild.engine.remote.cache import RemoteCache

MOST_TARGETS, MOST_GATES, MOST_PROBLEMS, MOST_ANSWERS, MOST_ROWS = 500, 200, 50, 100, 30
LONGEST = 300


class Checkout(Struct, kw_only=True, eq=False):
    """A recipe in a folder, its plan, and the keys of which a remote cache has results."""

    project: Project
    plan: Plan
    there: frozenset[str] = frozenset()

    @staticmethod
    def of(project: Project, goals: Sequence[str], remote: RemoteCache | None) -> Checkout:
        """Plan the goals, with the traces and the rows that a remote cache has."""
        plan = project.planner.plan(list(goals), with_faults=True)
        there: set[str] = set()
        if remote:
            there = remote.look(project.planner, plan)
            rows = [n for n in plan.targets if project.graph.targets[n].kind == "dataset"]
            remote.fetch(project.planner, plan, rows)
        return Checkout(project=project, plan=plan, there=frozenset(there))

    def judgements(self) -> list[Judgement]:
        metrics = {name: self.project.metrics(self.plan, name) for name in self.plan.targets}
        return self.project.judge(metrics)

    def evidence(self) -> Evidence:
        return Evidence(self.project, self.plan, [])

    def verdict(self, state: State) -> Verdict:
        """Return a node's verdict, where the results of the remote cache count as cached."""
        is_there = state.verdict is Verdict.STALE and state.key in self.there
        return Verdict.CACHED if is_there and state.trace else state.verdict


def collect(now: Checkout, before: Checkout | None, *, with_rows: bool) -> PullRequestReport:
    """Return what is to be said of a checkout, beside that of the branch that it is for."""
    targets = [_planned(now, before, name) for name in now.plan.targets]
    gates = list(_gates(now, before))
    answers = list(_answers(now, before, with_rows=with_rows)) if before else []
    findings = [
        _text(f"{p.where}: {p.fact}") for p in problems(now.project.planner, now.plan) if p.fails
    ]
    counts = len(targets), len(gates), len(answers), len(findings)
    most = MOST_TARGETS, MOST_GATES, MOST_ANSWERS, MOST_PROBLEMS
    return PullRequestReport(
        name=_text(now.project.graph.recipe.folder.name),
        targets=tuple(targets[:MOST_TARGETS]),
        gates=tuple(gates[:MOST_GATES]),
        answers=tuple(answers[:MOST_ANSWERS]),
        problems=tuple(findings[:MOST_PROBLEMS]),
        left_out=sum(max(0, count - limit) for count, limit in zip(counts, most, strict=True)),
    )


def _planned(now: Checkout, before: Checkout | None, target: str) -> Planned:
    _, states = now.plan.target(target)
    verdicts = {now.verdict(state) for state in states}
    order = (Verdict.BROKEN, Verdict.STALE, Verdict.WAITING, Verdict.CACHED, Verdict.FRESH)
    verdict = next(verdict for verdict in order if verdict in verdicts)
    old = before.plan.states if before else {}
    costs = [s.seconds for s in (_costed(s, old.get(s.node.name)) for s in states)]
    known = [cost for cost in costs if cost is not None]
    runs = verdict not in (Verdict.FRESH, Verdict.CACHED)
    return Planned(
        target=_text(target),
        kind=_text(now.project.graph.targets[target].kind),
        verdict=verdict.value,
        seconds=round(sum(known), 3) if known else None,
        why=_text(_why(states, old, target)) if runs else "",
    )


def _costed(state: State, old: State | None) -> State:
    """Return that of a node's states whose cost is known: a CI job has built nothing yet."""
    return old if state.seconds is None and old is not None else state


def _why(states: Sequence[State], old: Mapping[str, State], target: str) -> str:
    """Return the first reason: what differs from the other branch, where that has a result."""
    lacking = [s for s in states if s.trace is None and s.key]
    if lacking and all(state.node.machine_bound for state in lacking):
        return "its speeds were not measured on a machine of this sort"
    for state in states:
        before = old.get(state.node.name)
        trace = before.trace if before else None
        if trace and state.parts and (reasons := compare(trace.parts, state.parts)):
            return describe(reasons[0])
    reasons = unique_reasons(states, target)
    return describe(reasons[0]) if reasons else ""


def _gates(now: Checkout, before: Checkout | None) -> Iterator[GateLine]:
    """Yield the gates that are judged, and those of targets that have no result yet."""
    old = {(j.target, j.gate): j.state for j in before.judgements()} if before else {}
    judged = now.judgements()
    for one in judged:
        yield GateLine(
            target=_text(one.target),
            gate=_text(one.gate),
            state=one.state,
            before=old.get((one.target, one.gate), "none"),
            value=_text(_value(one)),
            note=_text(one.why),
        )
    done = {one.target for one in judged}
    for name in now.plan.targets:
        target = now.project.graph.recipe.targets[name]
        if name not in done and now.project.graph.targets[name].gated:
            for gate in target.step.gates(target.fields):
                yield GateLine(
                    target=_text(name),
                    gate=_text(gate.text),
                    state="none",
                    before=old.get((name, gate.text), "none"),
                )


def _value(judgement: Judgement) -> str:
    metric = judgement.gate.split()[0].rpartition(".")[2]
    if judgement.is_drop:
        return f"{judgement.value:.4g}"
    return format_metric(metric, judgement.value)


def _answers(now: Checkout, before: Checkout, *, with_rows: bool) -> Iterator[Answers]:
    graph = now.project.graph
    for name in now.plan.targets:
        if graph.targets[name].kind != "benchmark" or name not in before.plan.states:
            continue
        try:
            for flips in between_checkouts(before.evidence(), now.evidence(), name):
                yield _changed(name, flips, with_rows=with_rows)
        except BuildError:
            # Of an older version, or with another shape: nothing is to be compared.
            continue


def _changed(target: str, flips: Flips, *, with_rows: bool) -> Answers:
    move = flips.moves[-1]
    rows: Iterable[ChangedRow] = (
        ChangedRow(
            number=flip.number,
            text=_text(flip.text),
            expected=_text(flip.expected),
            before=_text(flip.replies[-2].text),
            now=_text(flip.replies[-1].text),
        )
        for flip in flips.rows[:MOST_ROWS]
    )
    return Answers(
        target=_text(target),
        model=_text(flips.model),
        data=_text(flips.data),
        lost=move.lost,
        won=move.won,
        other=move.other,
        fresh=flips.fresh,
        rows=tuple(rows) if with_rows else (),
    )


def _text(value: str) -> str:
    flat = plain(" ".join(value.split()))
    return flat if len(flat) <= LONGEST else flat[: LONGEST - 1] + "…"
