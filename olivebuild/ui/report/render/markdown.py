"""The report in a few tables of Markdown, for the summary page of a continuous-integration run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from olivebuild.core.streams import plain
from olivebuild.core.text import seconds
from olivebuild.metrics.catalogue import title
from olivebuild.metrics.gates import summary
from olivebuild.ui.report.records import Bench, Choice, Gate, Report, Value
from olivebuild.ui.report.render.html import SHARES, SPEEDS, columns_of
from olivebuild.ui.wording import format_metric


def render(report: Report) -> str:
    """Return the report's tables."""
    return plain("\n".join(_lines(report)) + "\n")


def _lines(report: Report) -> Iterator[str]:
    yield f"## {text(report.name)}"
    yield ""
    yield from _headline(report)
    if report.gates:
        yield from table(
            ("gate", "found", "verdict", ""),
            [(g.text, g.value, _verdict(g), g.note) for g in report.gates],
            "lrll",
        )
    for bench in report.benches:
        yield from _bench(bench)
    for choice in report.choices:
        yield from _choice(choice)
    for target, line in report.dropped:
        yield f"{text(target)}: {text(line)}"
        yield ""
    yield from _last_build(report)


def _verdict(gate: Gate) -> str:
    marks = {"met": "met", "missed": "**missed** ❌", "undecided": "**not decided** ⚠️"}
    return marks[gate.state]


def _headline(report: Report) -> Iterator[str]:
    """Yield the gates' summary, and how the metrics changed."""
    states = [gate.state for gate in report.gates]
    if states:
        all_met = set(states) == {"met"}
        yield f"**All {len(states)} gates met**" if all_met else f"**Gates: {summary(states)}**"
        yield ""
    for bench in report.benches:
        if bench.since:
            yield f"{text(bench.target)}, {text(bench.since)}"
            yield ""


def _last_build(report: Report) -> Iterator[str]:
    """Yield the last build's summary, and a table of what it made."""
    if report.builds:
        last = report.builds[0]
        saved = f"; the results kept had taken {seconds(last.saved)}" if last.saved >= 1 else ""
        yield (
            f"Build {last.number}: {last.ran} steps ran, {last.restored} restored, {last.fresh} "
            f"targets kept, in {seconds(last.seconds)}{saved}."
        )
        yield ""
    built = [t for t in report.targets if t.outcome != "kept"]
    if built:
        yield "<details><summary>What was made, and why</summary>"
        yield ""
        rows = [
            (t.name, t.kind, t.outcome, "; ".join(t.why[:3]), seconds(t.seconds))
            for t in built[:50]
        ]
        yield from table(("target", "kind", "last build", "why", "cost"), rows, "llllr")
        yield "</details>"
        yield ""


def _bench(bench: Bench) -> Iterator[str]:
    columns: list[tuple[str, str]] = []
    for data in bench.sets:
        judged = [m.sets[data] for m in bench.models if data in m.sets]
        columns += ((data, name) for name in columns_of(judged))
    speeds = [name for name in SPEEDS if any(name in m.figures for m in bench.models)]
    head = ["model", *(f"{data}: {title(name)}" for data, name in columns), *map(title, speeds)]
    rows = []
    for m in bench.models:
        cells = [
            _cell(name, m.sets[data].figures.get(name)) if data in m.sets else ""
            for data, name in columns
        ]
        rows.append((m.name, *cells, *(_cell(name, m.figures.get(name)) for name in speeds)))
    yield f"### {text(bench.target)}"
    yield ""
    yield from table(head, rows, "l" + "r" * (len(head) - 1))


def _choice(choice: Choice) -> Iterator[str]:
    reason = f"by {text(title(choice.by))}" if choice.chosen == choice.best else "chosen last"
    best = f"**{text(choice.chosen)}**, {reason}" if choice.chosen else "nothing chosen yet"
    yield f"### {text(choice.target)}"
    yield ""
    yield f"{best}, among the models of {text(choice.bench)}" + (
        "" if choice.best else "; **no model meets all gates**"
    )
    yield ""
    figures = list(dict.fromkeys((choice.by, *choice.axes)))
    rows = []
    for m in choice.contenders:
        verdicts = [""] * len(choice.gates) if m.gates is None else [_verdict(g) for g in m.gates]
        front = (
            ("beaten by " + m.beaten_by if m.beaten_by else "on it") if len(choice.axes) > 1 else ""
        )
        rows.append(
            (
                m.model,
                *(format_metric(name.rpartition(".")[2], m.figures[name]) for name in figures),
                *verdicts,
                front,
            )
        )
    yield from table(
        ("model", *map(title, figures), *choice.gates, "front"),
        rows,
        "l" + "r" * len(figures) + "l" * (len(choice.gates) + 1),
    )


def _cell(name: str, value: Value | None) -> str:
    if value is None:
        return ""
    if value.low is None or value.high is None or name not in SHARES[:-1]:
        return format_metric(name, value.value)
    return f"{format_metric(name, value.value)} ({value.low * 100:.0f} to {value.high * 100:.0f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> Iterator[str]:
    """Yield the lines of a table. `sides`: "l" or "r" for each column."""
    yield "| " + " | ".join(map(text, head)) + " |"
    yield "|" + "|".join("---:" if side == "r" else "---" for side in sides) + "|"
    for row in rows:
        yield "| " + " | ".join(c if c.startswith("**missed**") else text(c) for c in row) + " |"
    yield ""


def text(value: str) -> str:
    """Return plain text escaped for a line of Markdown: no markup, HTML or cell border."""
    flat = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~!$@])", r"\\\1", flat)
