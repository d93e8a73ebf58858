"""The history as text: a head for each build, and below it its gates, figures and causes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from olivebuild.core.text import clean, seconds
from olivebuild.engine.build_comparison import between, metrics_of
from olivebuild.engine.history import Entry, TargetMetrics
from olivebuild.engine.lineage import previous
from olivebuild.metrics.catalogue import title
from olivebuild.metrics.decision import decide, headline
from olivebuild.metrics.gates import WORDS
from olivebuild.metrics.records import Metrics
from olivebuild.ui.wording import describe, format_metric, gate_note, gate_value, listed

INDENT = " " * 7
CAUSES = 4
"""Most causes that are listed; of more, their number is shown."""
QUALITIES = ("accuracy", "json_exact", "generated_accuracy", "perplexity")
SPEEDS = ("ttft", "tokens_per_second", "size")
OF_TRAINING = ("loss", "eval_loss", "eval_accuracy")


def lines(entries: Sequence[Entry], count: int, width: int | None = None) -> Iterator[str]:
    """Yield the lines of the last `count` builds, the newest last, folded to `width` columns."""
    folders = {entry.folder for entry in entries} - {""}
    for entry in entries[-count:]:
        yield _head(entry)
        below = [*_below(entries, entry)]
        if len(folders) > 1 and entry.folder:
            below.append(f"in {entry.folder}")
        for line in below:
            yield from _folded(clean(line), width)


def _folded(line: str, width: int | None) -> list[str]:
    if width is None:
        return [INDENT + line]
    return textwrap.wrap(
        line,
        max(40, width),
        initial_indent=INDENT,
        subsequent_indent=f"{INDENT}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _head(entry: Entry) -> str:
    restored = sum(run.restored for run in entry.made)
    runs = f"{len(entry.made) - restored} run, {restored} restored"
    time = entry.time.replace("T", " ").rstrip("Z")
    state = f"failed: {listed(entry.failed)}" if entry.failed else _decision(entry)
    head = f"{entry.number:>5}  {time}  {runs:<18}  {seconds(entry.seconds):>10}"
    return clean(f"{head}  {state}".rstrip())


def _decision(entry: Entry) -> str:
    """Return the decision of a build's gates; "" without gates."""
    states = [gate.outcome for gate in entry.gates]
    problems = sum(diagnostic.is_error for diagnostic in entry.diagnostics)
    outcome = decide(states, fails=any(gate.fails for gate in entry.gates), problems=problems)
    return headline(outcome, states, problems) if states else ""


def _below(entries: Sequence[Entry], entry: Entry) -> Iterator[str]:
    for target, measured in entry.measured.items():
        yield from _figures(entries, entry, target, measured)
    for gate in entry.gates:
        if gate.outcome != "met":
            note = f" ({note})" if (note := gate_note(gate)) else ""
            value = "" if gate.value is None else f": {gate_value(gate.gate, gate.value)}{note}"
            yield f"{WORDS[gate.outcome]} {gate.gate}{value}"
    for diagnostic in entry.diagnostics:
        if diagnostic.is_error:
            yield f"problem: {diagnostic.text}"
    for name in entry.failed:
        if fault := entry.faults.get(name):
            yield f"{name} failed: {fault}"
    causes = [describe(cause) for cause in entry.causes]
    if causes:
        more = f" (and {len(causes) - CAUSES} more)" if len(causes) > CAUSES else ""
        yield f"because {'; '.join(causes[:CAUSES])}{more}"


def _figures(
    entries: Sequence[Entry], entry: Entry, target: str, measured: TargetMetrics
) -> Iterator[str]:
    """Yield what a target measured, unless the build before has the same result."""
    earlier = [e.measured[target].key for e in entries if _has_measured(e, entry, target)]
    if earlier[-1:] == [measured.key]:
        return
    if measured.kind == "benchmark":
        metrics = metrics_of(measured)
        if metrics.models:
            before = previous(entries, entry, target)
            yield _of_benchmark(target, metrics, before, _name_benchmarks(entry))
    elif measured.kind == "adapter":
        yield from _scalars(target, {k: measured.metrics.get(k) for k in OF_TRAINING})
    elif measured.kind == "command":
        yield from _scalars(target, measured.metrics)


def _has_measured(earlier: Entry, entry: Entry, target: str) -> bool:
    return (
        earlier.number < entry.number
        and earlier.folder == entry.folder
        and target in earlier.measured
    )


def _name_benchmarks(entry: Entry) -> bool:
    return sum(m.kind == "benchmark" for m in entry.measured.values()) > 1


def _of_benchmark(target: str, metrics: Metrics, before: Entry | None, named: bool) -> str:
    """Return the last model's figures, each with its change since the build before."""
    name, model = list(metrics.models.items())[-1]
    old = metrics_of(before.measured[target]) if before else Metrics()
    changes = {(c.data, c.figure): c for c in between(target, old, metrics) if c.model == name}
    parts = []
    for data in metrics.data:
        row = model.data.get(data)
        key = next((q for q in QUALITIES if row and row.metric(q) is not None), "")
        if row and key:
            parts.append((data, key, row.metric(key)))
    parts += [("", key, model.metric(key)) for key in SPEEDS]
    texts = []
    for data, key, value in parts:
        if value is not None:
            place = f" on {data}" if data else ""
            change = changes.get((data, key))
            since = (
                f" ({change.text.replace(' (noise)', ', noise')})"
                if change and change.better is not None
                else ""
            )
            texts.append(f"{title(key)}{place} {format_metric(key, value)}{since}")
    since = f"; changes since {before.name}" if before and changes else ""
    return f"{f'{target}, ' if named else ''}{name}: {', '.join(texts)}{since}"


def _scalars(target: str, values: object) -> Iterator[str]:
    if not isinstance(values, dict):
        return
    texts = [
        f"{title(name)} {format_metric(name, float(value))}"
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if texts:
        yield f"{target}: {', '.join(texts[:8])}"
