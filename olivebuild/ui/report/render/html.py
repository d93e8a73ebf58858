"""The report as one self-contained HTML page: no script, no font or picture from elsewhere.

Every text is escaped.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from olivebuild.core import text as texts
from olivebuild.core.streams import plain
from olivebuild.engine.build_comparison import Change
from olivebuild.metrics import catalogue
from olivebuild.metrics.gates import State, summary
from olivebuild.ui import wording
from olivebuild.ui.report.records import (
    Bench,
    Choice,
    Confusion,
    Edit,
    Gate,
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
"""Metrics whose differences stand above the others."""
SHARES = (
    "accuracy", "generated_accuracy", "exact_match", "macro_f1", "json_exact", "field_exact",
    "schema_valid",
    "perplexity",
)  # fmt: skip
NOT_BUILT = ("stale", "waiting", "cached")
"""Outcomes of targets that the last build did not bring up to date."""


@dataclass(frozen=True)
class Tile:
    """A metric at the top of the page."""

    name: str
    text: str
    note: str
    change: str
    tone: str


@dataclass(frozen=True)
class Columns:
    """Columns of a data set in the table of models."""

    name: str
    rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class BenchView:
    """A benchmark with its tables and charts."""

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
    """A training with its charts."""

    run: Training
    charts: tuple[charts.LineChart, ...]


@dataclass(frozen=True)
class ChoiceView:
    """A choice with the metrics of its table and its charts."""

    choice: Choice
    figures: tuple[str, ...]
    charts: tuple[pareto_chart.SpotChart, ...]


def _verdict(gates: Iterable[Gate]) -> State:
    """Return the worst outcome of the gates."""
    states = {gate.state for gate in gates}
    return "missed" if "missed" in states else "undecided" if "undecided" in states else "met"


def render(report: Report) -> str:
    """Return the page."""
    targets = {t.name: t for t in report.targets}
    drawing = None
    if 1 < len(targets) <= MAX_DRAWN:
        drawing = graph_layout.draw({t.name: t.inputs for t in report.targets})
    page = (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            last=report.builds[0] if report.builds else None,
            waiting=[t.name for t in report.targets if t.outcome in NOT_BUILT],
            verdict=_verdict(report.gates),
            gates_summary=summary(g.state for g in report.gates),
            tiles=list(tiles(report.benches[0])) if report.benches else [],
            benches=[view(b) for b in report.benches],
            choices=[_choice_view(c) for c in report.choices],
            trainings=[TrainingView(run, tuple(_curves(run))) for run in report.trainings],
            targets=targets,
            shown=report.targets[:MAX_TARGETS],
            dearest=max((t.seconds or 0 for t in report.targets), default=0),
            drawing=drawing,
            sections=list(_sections(report)),
        )
    )
    return re.sub(r"\n\s*\n+", "\n", plain(page))


def _environment() -> Environment:
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
        "metric": lambda x, name: wording.format_metric(name, x),
        "heading": catalogue.title,
        "when": when,
        "clip": lambda text, most: text if len(text) <= most else text[: most - 1] + "…",
        "pct": lambda x: wording.percent(x),
        "span": span,
        "last_two": lambda row: row[1] + row[2],
        "words": words,
    }
    environment.globals["cell"] = cell
    return environment


def _choice_view(choice: Choice) -> ChoiceView:
    return ChoiceView(
        choice,
        tuple(dict.fromkeys((choice.by, *choice.axes))),
        tuple(pareto_chart.chart(choice, across) for across in choice.axes[1:]),
    )


def cell(name: str, value: Value | None) -> Markup:
    """Return a metric for the table, with its interval below."""
    if value is None:
        return Markup()
    text = escape(wording.format_metric(name, value.value))
    if value.low is None or value.high is None:
        return text
    low, high = (wording.format_metric(name, v) for v in (value.low, value.high))
    unit = high.rpartition(" ")[2] if " " in high else ""
    low = low.removesuffix(f" {unit}") if unit and low.endswith(f" {unit}") else low
    return text + Markup('<small class="soft">{} to {}</small>').format(low, high)


def span(difference: Value) -> str:
    """Return the interval of a difference as text; "" without one."""
    return (
        f"{difference.low:+.1f} to {difference.high:+.1f}"
        if difference.low is not None and difference.high is not None
        else ""
    )


def when(time: str) -> str:
    """Return an ISO 8601 time for people; any other text as it is."""
    try:
        moment = datetime.fromisoformat(time)
        return f"{moment.day} {moment:%b %Y, %H:%M} UTC"
    except ValueError:
        return time


def words(edit: Edit) -> Iterator[tuple[str, str]]:
    """Yield the runs of words of an edit: (" ", kept), ("-", removed) and ("+", added)."""
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (edit.before, edit.after))
    old = new = ""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        same = "".join(before[a:b]) if kind == "equal" else ""
        if same.strip() or (same and not (old or new)):
            yield from _changed(old, new)
            yield " ", same
            old = new = ""
        else:
            # A space between two changed words belongs to the change.
            old, new = old + "".join(before[a:b]), new + "".join(after[c:d])
    yield from _changed(old, new)


def _changed(old: str, new: str) -> Iterator[tuple[str, str]]:
    if old:
        yield "-", old
    if new:
        yield "+", new


def tiles(bench: Bench) -> Iterator[Tile]:
    """Yield the last model's metrics, each with its change since the build before."""
    model = bench.models[-1]
    changes = {(c.data, c.figure): c for c in bench.changes if c.model == model.name}
    for data in bench.sets[:3]:
        figures = model.sets[data].figures if data in model.sets else {}
        name = next((n for n in SHARES if n in figures), None)
        if name:
            yield _tile(
                f"{catalogue.title(name)}, {data}", name, figures[name], changes.get((data, name))
            )
    for name in ("tokens_per_second", "ttft", "peak_rss", "size"):
        if name in model.figures:
            yield _tile(catalogue.title(name), name, model.figures[name], changes.get(("", name)))


def _tile(title: str, name: str, value: Value, change: Change | None) -> Tile:
    note = ""
    if value.low is not None and value.high is not None:
        low, high = (wording.format_metric(name, v) for v in (value.low, value.high))
        note = f"{low} to {high}"
    text, tone = _change(change) if change else ("", "soft")
    return Tile(title, wording.format_metric(name, value.value), note, text, tone)


def _change(change: Change) -> tuple[str, str]:
    """Return a change as text, and its tone: "good", "bad" or "soft"."""
    if change.better is None or change.text == "equal":
        return "unchanged", "soft"
    if change.noise:
        return change.text, "soft"
    return change.text, "good" if change.better else "bad"


def view(bench: Bench) -> BenchView:
    """Return a benchmark with its tables and charts. The last model is the one that matters."""
    sets = tuple(_columns(bench, name) for name in bench.sets)
    measured = {figure for m in bench.models for figure in m.figures}
    last = bench.models[-1]
    deciding = tuple(v for v in bench.comparisons if v.model == last.name and v.figure in DECIDING)
    return BenchView(
        bench=bench,
        comparisons=deciding,
        more=_all_comparisons(bench) if len(deciding) < len(bench.comparisons) else None,
        sets=sets,
        speed=tuple(name for name in SPEEDS if name in measured) or ("size",),
        intervals=any(value.low is not None for value in _all_values(bench)),
        accuracy=tuple(_accuracy_charts(bench, sets)),
        latency=tuple(_latency_charts(bench)),
        trends=tuple(charts.trend(t) for t in bench.trends),
        confusions=tuple(_confusions(bench)),
        labels=tuple(
            (name, last.name, judged.labels) for name, judged in last.sets.items() if judged.labels
        ),
    )


def _columns(bench: Bench, data: str) -> Columns:
    judged = [m.sets[data] for m in bench.models if data in m.sets]
    return Columns(data, max((j.rows for j in judged), default=0), columns_of(judged))


def columns_of(judged: Sequence[Judged]) -> tuple[str, ...]:
    """Return the metrics of answers that any model has, the user's own scores last."""
    measured = {figure for j in judged for figure in j.figures}
    scores = dict.fromkeys(name for j in judged for name in j.scores)
    columns = [figure for figure in SHARES if figure in measured]
    columns += [name for name in scores if name not in SHARES]
    return tuple(columns) or ("accuracy",)


def _all_values(bench: Bench) -> Iterator[Value]:
    for model in bench.models:
        yield from model.figures.values()
        for judged in model.sets.values():
            yield from judged.figures.values()


def _accuracy_charts(bench: Bench, sets: Iterable[Columns]) -> Iterator[charts.StripChart]:
    """Yield a chart for each data set, of the first share that its table shows."""
    for columns in sets:
        figure = next((name for name in SHARES[:-1] if name in columns.columns), "accuracy")
        chart = charts.accuracy(bench, columns.name, figure)
        if chart:
            yield chart


def _latency_charts(bench: Bench) -> Iterator[charts.StripChart]:
    for kind, title in (
        ("ttft", "time to first token"),
        ("gaps", "time between tokens"),
        ("e2e", "end to end"),
    ):
        chart = charts.latency(bench, kind, title)
        if chart:
            yield chart


def _confusions(bench: Bench) -> Iterator[tuple[str, tuple[tuple[str, Confusion], ...]]]:
    """Yield each data set that has confusion matrices, with those of the models."""
    for data in bench.sets:
        matrices = []
        for model in bench.models:
            confusion = model.sets[data].confusion if data in model.sets else None
            if confusion:
                matrices.append((model.name, confusion))
        if matrices:
            yield data, tuple(matrices)


def _all_comparisons(bench: Bench) -> charts.Table:
    head = ("model", "against", "figure", "difference", "99 % interval", "verdict", "p")
    rows = []
    for v in bench.comparisons[:MAX_COMPARISONS]:
        figure = catalogue.title(v.figure) + (f" on {v.data}" if v.data else "")
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
