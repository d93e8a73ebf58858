"""The report in a few tables of Markdown, for the summary page of a continuous-integration run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from olivebuild.core.streams import plain
from olivebuild.core.text import seconds
from olivebuild.core.text import size as size_of
from olivebuild.metrics.catalogue import title
from olivebuild.ui.report.decision import Decision
from olivebuild.ui.report.records import Bench, Choice, Gate, Model, Report, Value
from olivebuild.ui.report.render.views import SHARES, Group, change_text, view
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


MOST = 20
"""Most diagnostics that are shown."""
MARKS = {"ship": "✅", "hold": "❌"} | dict.fromkeys(("undecided", "stale", "none"), "⚠️")


VERDICTS = {"met": "met", "missed": "**missed** ❌", "undecided": "**not decided** ⚠️"}


def _verdict(gate: Gate) -> str:
    return VERDICTS[gate.state]


def _headline(report: Report) -> Iterator[str]:
    """Yield the decision, why, the artefacts, and what changed since the last that shipped."""
    decision = report.decision
    yield f"**{text(decision.headline)}** {MARKS[decision.outcome]}".rstrip()
    yield ""
    yield from bullets(decision.reasons)
    for artefact in decision.artefacts:
        kind = f"which is {artefact.chosen}" if artefact.chosen else artefact.kind
        size = f", {size_of(artefact.size)}" if artefact.size is not None else ""
        digest = f", digest {artefact.digest}" if artefact.digest else ""
        yield text(f"Artefact: {artefact.target} ({kind}), {artefact.path}{size}{digest}")
        yield ""
    yield from _since(decision)
    if report.diagnostics:
        yield "**Problems with the figures**" if report.diagnostics[0].is_error else "**Warnings**"
        yield ""
        yield from bullets(
            f"{d.text}; {d.hint}" if d.hint else d.text for d in report.diagnostics[:MOST]
        )


def _since(decision: Decision) -> Iterator[str]:
    shipped = decision.shipped
    if shipped is None:
        for since in decision.others.values():
            yield text(since)
            yield ""
        return
    yield text(f"Since build {shipped.build}, the last that met all its gates:")
    yield ""
    yield from bullets(
        f"{title(c.figure)}{f' on {c.data}' if c.data else ''} {format_metric(c.figure, c.old)} → "
        f"{format_metric(c.figure, c.new)} ({change_text(c)})"
        for c in shipped.changes
    )
    if shipped.causes:
        yield text(f"edited: {'; '.join(shipped.causes)}")
        yield ""


def bullets(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a list, and an empty one after it."""
    items = [f"- {text(line)}" for line in lines]
    yield from items
    if items:
        yield ""


def _last_build(report: Report) -> Iterator[str]:
    """Yield the last build's summary, and a table of what it made."""
    if last := report.last:
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
    """Yield the models with the figures that say most, and all figures folded."""
    shown = view(bench)
    yield f"### {text(bench.target)}"
    yield ""
    yield from _models(bench, shown.lead)
    if shown.rest:
        yield "<details><summary>All figures</summary>"
        yield ""
        for group in shown.rest:
            yield from _models(bench, [group])
        yield "</details>"
        yield ""


def _models(bench: Bench, groups: Iterable[Group]) -> Iterator[str]:
    columns = [(data, name) for data, _, names in groups for name in names]
    head = ["model", *(f"{data}: {title(name)}" if data else title(name) for data, name in columns)]
    rows = [(m.name, *(_figure(m, data, name) for data, name in columns)) for m in bench.models]
    yield from table(head, rows, "l" + "r" * len(columns))


def _figure(model: Model, data: str, name: str) -> str:
    if not data:
        return _cell(name, model.figures.get(name))
    return _cell(name, model.sets[data].figures.get(name)) if data in model.sets else ""


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
        yield "| " + " | ".join(c if c in VERDICTS.values() else text(c) for c in row) + " |"
    yield ""


def text(value: str) -> str:
    """Return plain text escaped for a line of Markdown: no markup, HTML or cell border."""
    flat = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~!$@])", r"\\\1", flat)
