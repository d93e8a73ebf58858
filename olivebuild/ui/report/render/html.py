"""The report as one HTML page that needs nothing else: no script, no font, no picture from
elsewhere. Every text is escaped.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from olivebuild.core import text as texts
from olivebuild.core.streams import plain
from olivebuild.engine.comparison import Change
from olivebuild.ui import wording
from olivebuild.ui.report.records import (
    Bench,
    Choice,
    Confusion,
    Edit,
    Judged,
    Label,
    Report,
    Training,
    Value,
    Versus,
)
from olivebuild.ui.report.render import charts, graph_layout, pareto_chart

TEMPLATES = Path(__file__).parent / "templates"
MAX_DRAWN, MAX_TARGETS, MAX_COMPARISONS = 60, 300, 200
SPEEDS = (
    "ttft",
    "tpot",
    "tokens_per_second",
    "prompt_tokens_per_second",
    "e2e",
    "load_seconds",
    "peak_rss",
    "gpu_memory",
    "joules_per_token",
    "size",
)
DECIDING = ("accuracy", "json_exact", "ttft", "tpot", "e2e")
"""Figures whose differences are told first."""
SHARES = (
    "accuracy", "generated_accuracy", "exact_match", "macro_f1", "json_exact", "field_exact",
    "schema_valid",
    "perplexity",
)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """One of the figures that the page begins with."""

    name: str
    text: str
    note: str
    change: str
    tone: str


@dataclass(frozen=True)
class Columns:
    """The columns of a data set in the table of models."""

    name: str
    rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class BenchView:
    bench: Bench
    comparisons: tuple[Versus, ...]
    more: charts.Table | None
    sets: tuple[Columns, ...]
    speed: tuple[str, ...]
    intervals: bool
    accuracy: tuple[charts.StripChart, ...]
    latency: tuple[charts.StripChart, ...]
    trends: tuple[charts.LineChart, ...]
    confusions: tuple[tuple[str, tuple[tuple[str, Confusion], ...]], ...]
    labels: tuple[tuple[str, str, tuple[Label, ...]], ...]


@dataclass(frozen=True)
class TrainingView:
    run: Training
    charts: tuple[charts.LineChart, ...]


@dataclass(frozen=True)
class ChoiceView:
    choice: Choice
    figures: tuple[str, ...]
    charts: tuple[pareto_chart.SpotChart, ...]


def render(report: Report) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "n": lambda x: f"{x:.2f}".rstrip("0").rstrip("."),
        "seconds": lambda x: texts.seconds(x),
        "size": lambda x: texts.size(x),
        "figure": lambda x, name: wording.figure(name, x),
        "heading": wording.heading,
        "when": when,
        "clip": lambda text, most: text if len(text) <= most else text[: most - 1] + "…",
        "pct": lambda x: wording.percent(x),
        "span": span,
        "last_two": lambda row: row[1] + row[2],
        "words": words,
    }
    environment.globals["cell"] = cell
    targets = {t.name: t for t in report.targets}
    page = environment.get_template("report.html").render(
        report=report,
        last=report.builds[0] if report.builds else None,
        waiting=[t.name for t in report.targets if t.outcome in ("stale", "waiting", "cached")],
        missed=[g for g in report.gates if not g.passed],
        tiles=list(tiles(report.benches[0])) if report.benches else [],
        benches=[view(b) for b in report.benches],
        choices=[
            ChoiceView(
                c,
                tuple(dict.fromkeys((c.by, *c.axes))),
                tuple(pareto_chart.chart(c, across) for across in c.axes[1:]),
            )
            for c in report.choices
        ],
        trainings=[TrainingView(run, tuple(_curves(run))) for run in report.trainings],
        targets=targets,
        shown=report.targets[:MAX_TARGETS],
        dearest=max((t.seconds or 0 for t in report.targets), default=0),
        drawing=graph_layout.draw({t.name: t.inputs for t in report.targets})
        if 1 < len(targets) <= MAX_DRAWN
        else None,
        sections=list(_sections(report)),
    )
    return re.sub(r"\n\s*\n+", "\n", plain(page))


def cell(name: str, value: Value | None) -> Markup:
    """A figure of the table, its interval below."""
    if value is None:
        return Markup()
    text = escape(wording.figure(name, value.value))
    if value.low is None or value.high is None:
        return text
    low, high = (wording.figure(name, v) for v in (value.low, value.high))
    unit = high.rpartition(" ")[2] if " " in high else ""
    low = low.removesuffix(f" {unit}") if unit and low.endswith(f" {unit}") else low
    return text + Markup('<small class="soft">{} to {}</small>').format(low, high)


def span(difference: Value) -> str:
    """The interval of a difference."""
    return (
        f"{difference.low:+.1f} to {difference.high:+.1f}"
        if difference.low is not None and difference.high is not None
        else ""
    )


def when(time: str) -> str:
    try:
        moment = datetime.fromisoformat(time)
        return f"{moment.day} {moment:%b %Y, %H:%M} UTC"
    except ValueError:
        return time


def words(edit: Edit) -> Iterator[tuple[str, str]]:
    """(" ", kept), ("-", gone), ("+", come), a run of words each."""
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (edit.before, edit.after))
    old = new = ""
    for kind, a, b, c, d in difflib.SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        same = "".join(before[a:b]) if kind == "equal" else ""
        if same.strip() or (same and not (old or new)):
            yield from (run for run in (("-", old), ("+", new)) if run[1])
            yield " ", same
            old = new = ""
        else:
            # A space between two changed words is no reason to tell them apart.
            old, new = old + "".join(before[a:b]), new + "".join(after[c:d])
    yield from (run for run in (("-", old), ("+", new)) if run[1])


def tiles(bench: Bench) -> Iterator[Tile]:
    """The last model's figures, and what became of them."""
    model = bench.models[-1]
    changes = {(c.data, c.figure): c for c in bench.changes if c.model == model.name}
    for data in bench.sets[:3]:
        figures = model.sets[data].figures if data in model.sets else {}
        name = next((n for n in SHARES if n in figures), None)
        if name:
            yield _tile(
                f"{wording.heading(name)}, {data}", name, figures[name], changes.get((data, name))
            )
    for name in ("tokens_per_second", "ttft", "peak_rss", "size"):
        if name in model.figures:
            yield _tile(wording.heading(name), name, model.figures[name], changes.get(("", name)))


def _tile(title: str, name: str, value: Value, change: Change | None) -> Tile:
    note = (
        f"{wording.figure(name, value.low)} to {wording.figure(name, value.high)}"
        if value.low is not None and value.high is not None
        else ""
    )
    told = (
        ""
        if change is None
        else "unchanged"
        if change.better is None or change.text == "equal"
        else change.text
    )
    tone = (
        "soft"
        if change is None or told == "unchanged" or change.noise
        else "good"
        if change.better
        else "bad"
    )
    return Tile(title, wording.figure(name, value.value), note, told, tone)


def view(bench: Bench) -> BenchView:
    sets = []
    for name in bench.sets:
        judged = [m.sets[name] for m in bench.models if name in m.sets]
        sets.append(Columns(name, max((j.rows for j in judged), default=0), columns_of(judged)))
    known = {figure for m in bench.models for figure in m.figures}
    accuracy = [
        charts.accuracy(bench, s, next((f for f in SHARES[:-1] if f in c.columns), "accuracy"))
        for s, c in zip(bench.sets, sets, strict=True)
    ]
    kinds = (
        ("ttft", "time to first token"),
        ("gaps", "time between tokens"),
        ("e2e", "end to end"),
    )
    confusions = [
        (s, tuple((m.name, t) for m in bench.models if s in m.sets and (t := m.sets[s].confusion)))
        for s in bench.sets
    ]
    last = bench.models[-1]
    return BenchView(
        bench=bench,
        comparisons=tuple(
            v for v in bench.comparisons if v.model == last.name and v.figure in DECIDING
        ),
        more=_all_comparisons(bench)
        if any(v.model != last.name or v.figure not in DECIDING for v in bench.comparisons)
        else None,
        sets=tuple(sets),
        speed=tuple(name for name in SPEEDS if name in known) or ("size",),
        intervals=any(
            v.low is not None
            for m in bench.models
            for row in (m.figures, *(j.figures for j in m.sets.values()))
            for v in row.values()
        ),
        accuracy=tuple(c for c in accuracy if c),
        latency=tuple(c for kind, title in kinds if (c := charts.latency(bench, kind, title))),
        trends=tuple(charts.trend(t) for t in bench.trends),
        confusions=tuple((s, tables) for s, tables in confusions if tables),
        labels=tuple(
            (s, last.name, last.sets[s].labels)
            for s in bench.sets
            if s in last.sets and last.sets[s].labels
        ),
    )


def columns_of(judged: Sequence[Judged]) -> tuple[str, ...]:
    """The figures of answers that any model has, the user's own scores last."""
    known = {figure for j in judged for figure in j.figures}
    own = dict.fromkeys(name for j in judged for name in j.scores)
    return (*(f for f in SHARES if f in known), *(name for name in own if name not in SHARES)) or (
        "accuracy",
    )


def _all_comparisons(bench: Bench) -> charts.Table:
    head = ("model", "against", "figure", "difference", "99 % interval", "verdict", "p")
    rows = []
    for v in bench.comparisons[:MAX_COMPARISONS]:
        figure = wording.heading(v.figure) + (f" on {v.data}" if v.data else "")
        rows.append(
            (
                v.model,
                v.versus,
                figure,
                f"{v.difference.value:+.1f} {v.unit}",
                span(v.difference),
                v.verdict,
                "" if v.p is None else f"{v.p:.2g}",
            )
        )
    return charts.Table(head, tuple(rows))


def _curves(run: Training) -> Iterator[charts.LineChart]:
    for names, title in (
        (("loss", "eval_loss"), "loss"),
        (("eval_accuracy",), "held-out accuracy"),
        (("lr",), "learning rate"),
        (("grad_norm",), "gradient norm"),
    ):
        chart = charts.training(run, names, title)
        if chart:
            yield chart


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    if report.gates:
        yield "gates", "Gates"
    for bench in report.benches:
        yield f"b-{bench.target}", "Models" if len(report.benches) == 1 else bench.target
    for choice in report.choices:
        yield f"c-{choice.target}", "Choice" if len(report.choices) == 1 else choice.target
    yield "graph", "What ran"
    for at, name, there in (
        ("builds", "Builds", report.builds),
        ("training", "Training", report.trainings),
        ("data", "Data", report.datasets),
    ):
        if there:
            yield at, name
    yield "provenance", "Provenance"
