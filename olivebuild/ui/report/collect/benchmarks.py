"""A benchmark's metrics -> its records: models side by side, comparisons, trends over builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from olivebuild.engine.build_comparison import between, metrics_of, since_last
from olivebuild.engine.history import Entry
from olivebuild.engine.lineage import previous
from olivebuild.metrics.catalogue import is_share
from olivebuild.metrics.gates import Gate
from olivebuild.metrics.pace import SAME_STRUCTURE, busy_machine
from olivebuild.metrics.records import (
    DataMetrics,
    Latency,
    Metrics,
    MetricSet,
    ModelMetrics,
    PairedComparison,
)
from olivebuild.ui.report.collect import answers
from olivebuild.ui.report.records import (
    Bench,
    Confusion,
    Judged,
    Label,
    Model,
    Point,
    Sample,
    Seeds,
    Trend,
    Value,
    Versus,
)
from olivebuild.ui.wording import describe, verdict

if TYPE_CHECKING:
    from olivebuild.ui.report.collect.evidence import Evidence

MAX_SAMPLES, MAX_LABELS, MAX_POINTS = 160, 24, 60


def bench(evidence: Evidence, target: str) -> Bench | None:
    """Return a benchmark's records; None before its first metrics."""
    metrics = evidence.benchmark(target)
    if not metrics.models:
        return None
    declared = evidence.project.graph.recipe.targets[target]
    entry = evidence.last
    before = previous(evidence.entries, entry, target) if entry else None
    flips = (answers.between_models(evidence, metrics, name) for name in metrics.data)
    gates = declared.step.gates(declared.fields)
    return Bench(
        target=target,
        sets=metrics.data,
        models=tuple(_model(name, row, metrics.data) for name, row in metrics.models.items()),
        baselines={
            name: {s: row.accuracy for s, row in rows.items() if row.accuracy is not None}
            for name, rows in metrics.baselines.items()
        },
        limits=tuple(_limits(gates, metrics.data, list(metrics.models))),
        against=tuple(dict.fromkeys(gate.versus for gate in gates if gate.versus)),
        comparisons=tuple(map(_versus, metrics.comparisons)),
        flips=tuple(filter(None, flips)),
        turned=tuple(answers.between_builds(evidence, target, before, entry))
        if before and entry
        else (),
        since=since_last(evidence.entries, entry, target) if entry else "",
        changes=tuple(between(target, metrics_of(before.measured[target]), metrics))
        if before
        else (),
        seeds=tuple(s for name, row in metrics.models.items() for s in _seeds(name, row)),
        commands={
            name: {k: float(v) for k, v in row.items() if number(v) is not None}
            for name, row in metrics.commands.items()
        },
        trends=tuple(_trends(evidence, target, metrics)),
        setting=_setting(metrics.latency),
    )


def number(value: object) -> float | None:
    """Return a JSON value as a number; None for any other value, and for NaN."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value
        else None
    )


def _values(row: MetricSet) -> dict[str, Value]:
    """Return the metrics of a row, each with the interval that stands beside it."""
    values = {}
    for name, scalar in row.scalars():
        value = number(scalar)
        if value is not None:
            low, high = row.interval(name) or (None, None)
            values[name] = Value(value, number(low), number(high))
    return values


def _model(name: str, row: ModelMetrics, sets: Iterable[str]) -> Model:
    samples = {kind: getattr(row.samples, kind) for kind in ("ttft", "tpot", "e2e", "gaps")}
    notes = [f"threads {row.threads}"] if row.threads else []
    notes += [f"provider {row.provider}"] if row.provider else []
    if row.same_structure_as:
        notes.append(f"its times are those of {row.same_structure_as}: {SAME_STRUCTURE}")
    if row.check and number(row.check.rms) is not None:
        notes.append(
            f"logits differ by {row.check.rms:.2g} of their spread from what it was made from"
        )
    return Model(
        name=name,
        sets={s: _judged(row.data[s]) for s in sets if s in row.data},
        figures=_values(row),
        samples={kind: _sample(values) for kind, values in samples.items() if values},
        notes=tuple(notes),
    )


def _judged(row: DataMetrics) -> Judged:
    labels = [
        Label(
            name=name,
            rows=label.rows,
            precision=number(label.precision),
            recall=number(label.recall),
            f1=number(label.f1),
        )
        for name, label in row.labels.items()
    ]
    scores = {k: Value(v) for k, v in row.scores.items() if v is not None and v == v}
    return Judged(
        rows=row.rows,
        figures=scores | _values(row),
        labels=tuple(labels[:MAX_LABELS]),
        confusion=_confusion(row),
        scores=tuple(row.scores),
    )


def _confusion(row: DataMetrics) -> Confusion | None:
    """Return the confusion matrix as recorded, else as counted from the answers.

    None for more labels than a page can show.
    """
    if row.confusion:
        labels, counts = row.confusion.labels, row.confusion.counts
    else:
        pairs = Counter((a.expected or "", a.label) for a in row.answers if a.label)
        labels = tuple(sorted({name for pair in pairs for name in pair}))
        counts = tuple(tuple(pairs[a, b] for b in labels) for a in labels)
    return Confusion(labels, counts) if 1 < len(labels) <= MAX_LABELS else None


def _sample(values: Iterable[float]) -> Sample:
    """Return samples in order; more than can be drawn are replaced by quantiles."""
    ordered = sorted(values)
    count = len(ordered)
    if count > MAX_SAMPLES:
        ordered = [ordered[round(i * (count - 1) / (MAX_SAMPLES - 1))] for i in range(MAX_SAMPLES)]
    return Sample(tuple(ordered), count)


def _limits(
    gates: Iterable[Gate], sets: tuple[str, ...], models: list[str]
) -> list[tuple[str, str, float]]:
    """Return (data set, metric, limit) of gates on the last model, which a chart can draw."""
    limits = []
    for gate in gates:
        if gate.versus or gate.command or gate.over:
            continue
        if all(name in sets or name == models[-1] for name in gate.names):
            data = next((name for name in gate.names if name in sets), sets[0])
            limits.append((data, gate.metric, gate.limit))
    return limits


def _setting(latency: Latency) -> dict[str, str]:
    """Return how latency was measured, in words: a name and what it was."""
    words = {
        True: "took turns",
        False: "each alone",
        "tight": "when the times were known well enough",
        "time": "after the time allowed",
        "rounds": "after the rounds allowed",
    }
    names = {"interleaved": "models", "why_stopped": "stopped", "measured_at": "measured"}
    worded = ("interleaved", "why_stopped")
    setting = {
        names.get(k, k): words[v] if k in worded and v in words else str(v)
        for k, v in latency.scalars()
        if k != "busy"
    }
    busy = {"note": busy_machine(latency.busy)} if latency.busy else {}
    return setting | busy


def _versus(row: PairedComparison) -> Versus:
    """Return a comparison in per cent for a ratio, in points for a share, else in its unit."""
    share = is_share(row.figure)
    if (ratio := number(row.ratio)) is not None:
        scale, shift, unit, value, ends = 100.0, 100.0, "%", ratio, row.ratio_bounds
    else:
        scale, shift, unit = (100.0, 0.0, "points") if share else (1.0, 0.0, "")
        value, ends = row.difference, row.bounds
    low, high = (x * scale - shift for x in ends) if ends else (None, None)
    return Versus(
        model=row.model,
        versus=row.versus,
        figure=row.figure,
        data=row.data or "",
        difference=Value(value * scale - shift, low, high),
        unit=unit,
        verdict=verdict(row),
        p=number(row.p),
        detectable=number(row.detectable),
        rows_needed=row.rows_needed.get("0.03"),
    )


def _seeds(model: str, row: ModelMetrics) -> Iterator[Seeds]:
    for data, of_data in row.data.items() if row.seeds else ():
        names = ("accuracy", "json_exact", "generated_accuracy")
        figure = next((name for name in names if of_data.metric(name) is not None), "")
        rows = [of_data, *(seed.data.get(data, DataMetrics()) for seed in row.seeds)]
        values = [value for row in rows if (value := number(row.metric(figure))) is not None]
        if figure:
            yield Seeds(model, data, figure, tuple(values))


def _trends(evidence: Evidence, target: str, metrics: Metrics) -> list[Trend]:
    """Return accuracy on each data set and decoding speed over the builds; a trend needs two."""
    builds = [e for e in evidence.entries if target in e.measured][-MAX_POINTS:]
    if len(builds) < 2:
        return []
    models = tuple(metrics.models)
    rows = [(entry, metrics_of(entry.measured[target])) for entry in builds]
    trends = []
    for figure, data in [*(("accuracy", s) for s in metrics.data), ("tokens_per_second", "")]:
        points = tuple(_point(entry, past, models, figure, data) for entry, past in rows)
        if sum(bool(p.values) for p in points) > 1:
            trends.append(Trend(figure, data, models, points))
    return trends


def _point(entry: Entry, metrics: Metrics, models: Iterable[str], figure: str, data: str) -> Point:
    values = {}
    for model in models:
        row: MetricSet | None = metrics.models.get(model)
        if data and isinstance(row, ModelMetrics):
            row = row.data.get(data)
        value = number(row.metric(figure)) if row else None
        if value is not None:
            values[model] = value
    edits = dict.fromkeys(
        describe(r) for r in entry.causes if r.cause in ("file", "source", "parameter")
    )
    return Point(build=entry.number, time=entry.time, values=values, edits=tuple(edits))
