"""Gates, diagnostics, traces and history -> the decision that a report leads with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from olivebuild.engine.build_comparison import Change, between, metrics_of
from olivebuild.engine.history import Entry
from olivebuild.engine.lineage import last_shipped
from olivebuild.metrics.decision import decide, headline
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.planner.states import Verdict
from olivebuild.ui.report.decision import Artefact, Decision, Shipped
from olivebuild.ui.report.records import Bench, Choice, Gate
from olivebuild.ui.wording import describe, listed

if TYPE_CHECKING:
    from olivebuild.ui.report.collect.evidence import Evidence

MAX_CAUSES = 8
QUALITIES = ("accuracy", "json_exact", "generated_accuracy", "perplexity")
"""Metrics of answers by how much they say; a change of the first is told for each data set."""
COSTS = ("ttft", "tokens_per_second", "peak_rss", "size")


def decision(
    evidence: Evidence,
    gates: Sequence[Gate],
    benches: Sequence[Bench],
    choices: Sequence[Choice],
    diagnostics: Iterable[Diagnostic],
) -> Decision:
    """Return the decision by the last metrics."""
    problems = sum(diagnostic.is_error for diagnostic in diagnostics)
    states = [gate.state for gate in gates]
    states += ["met" if choice.best else "missed" for choice in choices]
    stale = _stale(evidence, benches, choices)
    outcome = decide(
        states,
        fails=any(gate.fails for gate in gates),
        problems=problems,
        stale=bool(stale),
    )
    return Decision(
        outcome=outcome,
        headline=headline(outcome, states, problems),
        reasons=tuple(_reasons(gates, choices, stale)),
        artefacts=tuple(_artefacts(evidence, gates, benches, choices)),
        shipped=_shipped(evidence, gates, benches),
        others={bench.target: bench.since for bench in benches if bench.since},
    )


def _stale(evidence: Evidence, benches: Sequence[Bench], choices: Sequence[Choice]) -> list[str]:
    """Return the targets that the decision is about and that are not up to date."""
    names = [bench.target for bench in benches] + [choice.target for choice in choices]
    names += [bench.models[-1].name for bench in benches]
    return [
        name
        for name in dict.fromkeys(names)
        if name in evidence.plan.targets
        and evidence.plan.target(name)[0] in (Verdict.STALE, Verdict.WAITING)
    ]


def _reasons(gates: Sequence[Gate], choices: Sequence[Choice], stale: list[str]) -> Iterator[str]:
    if stale:
        yield f"{listed(stale)} changed since; what follows is of the last results"
    for state in ("missed", "undecided"):
        for gate in gates:
            if gate.state == state:
                note = f" ({gate.note})" if gate.note else ""
                yield f"{gate.word}: {gate.text}, and it is {gate.value}{note}"
    for choice in choices:
        if not choice.best:
            yield f"{choice.target}: no model of {choice.bench} meets {' and '.join(choice.gates)}"


def _artefacts(
    evidence: Evidence, gates: Sequence[Gate], benches: Sequence[Bench], choices: Sequence[Choice]
) -> Iterator[Artefact]:
    """Yield what would be shipped.

    The choices; of a benchmark that none is made by, the model that its gates judge.
    """
    judged = {gate.target for gate in gates}
    for choice in choices:
        if choice.chosen:
            yield _artefact(evidence, choice.target, choice.chosen)
    chosen_from = {choice.bench for choice in choices if choice.chosen}
    for bench in benches:
        if bench.target not in chosen_from and (bench.target in judged or not judged):
            yield _artefact(evidence, bench.models[-1].name)


def _artefact(evidence: Evidence, target: str, chosen: str = "") -> Artefact:
    trace = evidence.trace(target)
    workspace = evidence.project.workspace
    folder = evidence.project.graph.recipe.folder
    place = folder / trace.reference if trace and trace.reference else None
    place = place or workspace.output_folder(target)
    path = place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)
    declared = evidence.project.graph.targets.get(target)
    return Artefact(
        target=target,
        kind=declared.kind if declared else "",
        path=path,
        digest=next(iter(trace.outputs.values()), "") if trace else "",
        size=trace.size if trace else None,
        is_there=place.exists(),
        chosen=chosen,
    )


def _shipped(evidence: Evidence, gates: Sequence[Gate], benches: Sequence[Bench]) -> Shipped | None:
    """Return the last build before the current one that met all its gates, with what changed."""
    now = evidence.last
    targets = {gate.target for gate in gates}
    if now is None or not targets:
        return None
    before = last_shipped(evidence.entries, now, targets)
    if before is None:
        return None
    causes = dict.fromkeys(
        cause
        for entry in evidence.entries
        if before.number < entry.number <= now.number and entry.folder in (now.folder, "")
        for cause in entry.causes
    )
    return Shipped(
        build=before.number,
        time=before.time,
        folder="" if before.folder in (now.folder, "") else Path(before.folder).name,
        changes=tuple(_changes(evidence, before, benches)),
        causes=tuple(map(describe, list(causes)[:MAX_CAUSES])),
        same_machine=before.machine == now.machine,
    )


def _changes(evidence: Evidence, before: Entry, benches: Sequence[Bench]) -> Iterator[Change]:
    """Yield what changed of the models that gates judge: an accuracy a data set, speed and size."""
    for bench in benches:
        if bench.target not in before.measured:
            continue
        old = metrics_of(before.measured[bench.target])
        changes = {
            (c.data, c.figure): c
            for c in between(bench.target, old, evidence.benchmark(bench.target))
            if c.model == bench.models[-1].name
        }
        for data in bench.sets:
            of_data = (changes.get((data, name)) for name in QUALITIES)
            yield from islice(filter(None, of_data), 1)
        yield from filter(None, (changes.get(("", name)) for name in COSTS))
