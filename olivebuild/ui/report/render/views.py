"""What the page's templates show of a report: columns, groups, charts, tiles.

Knows no markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from olivebuild.engine.build_comparison import Change
from olivebuild.metrics.catalogue import ALL, BY_NAME, title
from olivebuild.ui import wording
from olivebuild.ui.report.records import (
    Bench,
    Choice,
    Confusion,
    Flip,
    Judged,
    Label,
    Training,
    Value,
    Versus,
)
from olivebuild.ui.report.render import charts, page_text, pareto_chart

MAX_COMPARISONS = 200
DECIDING = ("accuracy", "json_exact", "ttft", "tpot", "e2e")
"""Metrics whose differences stand above the others."""
SHARES = (
    "accuracy", "generated_accuracy", "exact_match", "macro_f1", "json_exact", "field_exact",
    "schema_valid",
    "perplexity",
)  # fmt: skip
LEADING = ("ttft", "tokens_per_second", "peak_rss", "size")
"""Metrics of a model that stand in the first table; the others are folded away."""
Group = tuple[str, str, tuple[str, ...]]
"""(data set, title, metrics) of a group of columns; the data set is "" for metrics of the model."""


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
    lead: tuple[Group, ...]
    """The columns of the first table."""
    rest: tuple[Group, ...]
    """Groups that have more columns than the first table shows, with all of them."""
    legend: str
    """What the abbreviations mean."""
    notes: tuple[str, ...]
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


def choice_view(choice: Choice) -> ChoiceView:
    return ChoiceView(
        choice,
        tuple(dict.fromkeys((choice.by, *choice.axes))),
        tuple(pareto_chart.chart(choice, across) for across in choice.axes[1:]),
    )


def tiles(bench: Bench) -> Iterator[Tile]:
    """Yield the last model's metrics, each with its change since the build before."""
    model = bench.models[-1]
    changes = {(c.data, c.figure): c for c in bench.changes if c.model == model.name}
    for data in bench.sets[:3]:
        figures = model.sets[data].figures if data in model.sets else {}
        name = next((n for n in SHARES if n in figures), None)
        if name:
            yield _tile(f"{title(name)}, {data}", name, figures[name], changes.get((data, name)))
    for name in ("tokens_per_second", "ttft", "peak_rss", "size"):
        if name in model.figures:
            yield _tile(title(name), name, model.figures[name], changes.get(("", name)))


def _tile(heading: str, name: str, value: Value, change: Change | None) -> Tile:
    note = ""
    if value.low is not None and value.high is not None:
        low, high = (wording.format_metric(name, v) for v in (value.low, value.high))
        note = f"{low} to {high}"
    text = change_text(change) if change else ""
    shown = wording.format_metric(name, value.value)
    return Tile(heading, shown, note, text, tone(change) if change else "soft")


def change_text(change: Change) -> str:
    """Return a change in words."""
    if change.new == change.old or change.text == "equal":
        return "unchanged"
    return change.text.replace(" (noise)", ", noise")


def tone(change: Change) -> str:
    """Return the tone of a change: "good", "bad" or "soft"."""
    if change.better is None or change.noise or change.text == "equal":
        return "soft"
    return "good" if change.better else "bad"


def view(bench: Bench) -> BenchView:
    """Return a benchmark with its tables and charts. The last model is the one that matters."""
    sets = tuple(_columns(bench, name) for name in bench.sets)
    last = bench.models[-1]
    against = {*bench.against, *(m.name for m in bench.models[-2:-1])}
    deciding = tuple(
        v
        for v in bench.comparisons
        if v.model == last.name and v.figure in DECIDING and v.versus in against
    )
    everything = tuple(_groups(bench, sets))
    lead = tuple(_leading(bench, group) for group in everything)
    rest = tuple(
        group
        for group, first in zip(everything, lead, strict=True)
        if len(group[2]) > len(first[2])
    )
    return BenchView(
        bench=bench,
        comparisons=deciding,
        more=_all_comparisons(bench) if len(deciding) < len(bench.comparisons) else None,
        lead=lead,
        rest=rest,
        legend=_legend(name for _, _, names in everything for name in names),
        notes=tuple(_notes(bench)),
        intervals=any(value.low is not None for value in _all_values(bench)),
        accuracy=tuple(_accuracy_charts(bench, sets)),
        latency=tuple(_latency_charts(bench)),
        trends=tuple(charts.trend(t) for t in bench.trends),
        confusions=tuple(_confusions(bench)),
        labels=tuple(
            (name, last.name, judged.labels) for name, judged in last.sets.items() if judged.labels
        ),
    )


def _groups(bench: Bench, sets: Iterable[Columns]) -> Iterator[Group]:
    """Yield all columns: those of each data set, then those of the model."""
    for columns in sets:
        yield columns.name, f"{columns.name}, {columns.rows} rows", columns.columns
    measured = {figure for m in bench.models for figure in m.figures}
    speed = tuple(m.name for m in ALL if not m.of_answers and m.name in measured) or ("size",)
    yield "", "speed, memory and size", speed


def _leading(bench: Bench, group: Group) -> Group:
    """Return the columns of a group that say most, and those that gates judge."""
    data, heading, names = group
    judged = {figure for of_set, figure, _ in bench.limits if of_set == data or not data}
    first = [name for name in names if name in LEADING] if not data else names[:1]
    lead = tuple(name for name in names if name in first or name in judged)
    return data, heading, lead or names[:1]


def _notes(bench: Bench) -> Iterator[str]:
    """Yield what is said of how models were run, once where it is the same of all."""
    models: dict[str, list[str]] = {}
    for model in bench.models:
        for note in model.notes:
            models.setdefault(note, []).append(model.name)
    for note, names in models.items():
        yield note if len(names) == len(bench.models) else f"{', '.join(names)}: {note}"


def _legend(names: Iterable[str]) -> str:
    """Return what the abbreviations among metrics mean."""
    metrics = [BY_NAME[name] for name in names if name in BY_NAME]
    shown = [m for m in metrics if m.title.isupper()]
    return "; ".join(f"{m.title}: {m.meaning}" for m in shown)


def texts_of(columns: Sequence[str], rows: Sequence[Flip]) -> Iterator[list[str]]:
    """Yield the texts of each column of a table of answers."""
    yield ["asked", *(row.text for row in rows)]
    yield ["right", *(row.expected for row in rows)]
    for i, name in enumerate(columns):
        yield [name, *(f"✓ {row.replies[i].text}" for row in rows)]


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
    for kind, heading in (
        ("ttft", f"{title('ttft')}: time to first token"),
        ("gaps", "ITL: time between tokens"),
        ("e2e", f"{title('e2e')}: end to end"),
    ):
        chart = charts.latency(bench, kind, heading)
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
    head = ("model", "against", "figure", "difference", "95 % interval", "verdict", "p")
    rows = []
    for v in bench.comparisons[:MAX_COMPARISONS]:
        figure = title(v.figure) + (f" on {v.data}" if v.data else "")
        rows.append(
            (
                v.model,
                v.versus,
                figure,
                f"{v.difference.value:+.1f} {v.unit}",
                page_text.span(v.difference),
                v.verdict,
                "" if v.p is None else f"{v.p:.2g}",
            )
        )
    return charts.Table(head, tuple(rows))


def curves(run: Training) -> Iterator[charts.LineChart]:
    for names, heading in (
        (("loss", "eval_loss"), "loss"),
        (("eval_accuracy",), "held-out accuracy"),
        (("lr",), "learning rate"),
        (("grad_norm",), "gradient norm"),
    ):
        chart = charts.training(run, names, heading)
        if chart:
            yield chart
