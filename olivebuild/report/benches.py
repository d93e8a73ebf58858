"""A benchmark's metrics -> its records: models side by side, comparisons, trends over builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from olivebuild.comparing import between, previous, since_last
from olivebuild.gates import FIGURES, Gate
from olivebuild.report import answers
from olivebuild.report.data import (
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
from olivebuild.wording import describe, verdict

if TYPE_CHECKING:
    from olivebuild.report.evidence import Evidence

MAX_SAMPLES, MAX_LABELS, MAX_POINTS = 160, 24, 60


def bench(evidence: Evidence, target: str) -> Bench | None:
    metrics = evidence.metrics(target)
    if not metrics.get("models"):
        return None
    sets = tuple(str(name) for name in metrics["data"])
    declared = evidence.project.graph.recipe.targets[target]
    entry = evidence.entries[-1] if evidence.entries else None
    before = previous(evidence.entries, entry, target) if entry else None
    return Bench(
        target=target,
        sets=sets,
        models=tuple(_model(name, row, sets) for name, row in metrics["models"].items()),
        baselines={
            name: {s: v["accuracy"] for s, v in values.items() if "accuracy" in v}
            for name, values in metrics.get("baselines", {}).items()
        },
        limits=tuple(_limits(declared.step.gates(declared.fields), sets, list(metrics["models"]))),
        comparisons=tuple(_versus(c) for c in metrics.get("comparisons", [])),
        flips=tuple(
            found for name in sets if (found := answers.between_models(evidence, metrics, name))
        ),
        turned=tuple(answers.between_builds(evidence, target, before, entry))
        if before and entry
        else (),
        since=since_last(evidence.entries, entry, target) if entry else "",
        changes=tuple(between(target, before.measured[target].metrics, metrics)) if before else (),
        seeds=tuple(s for name, row in metrics["models"].items() for s in _seeds(name, row, sets)),
        commands={
            name: {k: v for k, v in row.items() if number(v) is not None}
            for name, row in metrics.get("commands", {}).items()
        },
        trends=tuple(_trends(evidence, target, metrics)),
        setting=_setting(metrics.get("latency", {})),
    )


def number(value: object) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value
        else None
    )


def _values(row: Mapping[str, Any]) -> dict[str, Value]:
    """The figures of a row, scores of the user's own among them, each with the interval that stands
    beside it.
    """
    found = {}
    for name, given in {**(row.get("scores") or {}), **row}.items():
        value, interval = number(given), row.get(f"{name}_interval")
        if value is not None:
            low, high = (
                interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
            )
            found[name] = Value(value, number(low), number(high))
    return found


def _model(name: str, row: Mapping[str, Any], sets: tuple[str, ...]) -> Model:
    samples = {
        kind: _sample(values) for kind, values in (row.get("samples") or {}).items() if values
    }
    notes = [f"{key} {row[key]}" for key in ("threads", "provider") if row.get(key)]
    check = row.get("check") or {}
    if number(check.get("rms")) is not None:
        notes.append(
            f"logits differ by {check['rms']:.2g} of their spread from what it was made from"
        )
    return Model(
        name,
        {s: _judged(row["data"][s]) for s in sets if s in row["data"]},
        _values(row),
        samples,
        tuple(notes),
    )


def _judged(row: Mapping[str, Any]) -> Judged:
    labels = [
        Label(name, int(v["rows"]), *(number(v.get(k)) for k in ("precision", "recall", "f1")))
        for name, v in (row.get("labels") or {}).items()
    ]
    return Judged(
        int(row["rows"]),
        _values(row),
        tuple(labels[:MAX_LABELS]),
        _confusion(row),
        tuple(row.get("scores") or ()),
    )


def _confusion(row: Mapping[str, Any]) -> Confusion | None:
    """As it is told, or counted from the answers; None for more labels than a page can show."""
    told = row.get("confusion")
    if told:
        labels, counts = tuple(told["labels"]), tuple(tuple(r) for r in told["counts"])
    else:
        pairs = Counter(
            (a["expected"], a["label"]) for a in row.get("answers") or [] if a.get("label")
        )
        labels = tuple(sorted({name for pair in pairs for name in pair}))
        counts = tuple(tuple(pairs[a, b] for b in labels) for a in labels)
    return Confusion(labels, counts) if 1 < len(labels) <= MAX_LABELS else None


def _sample(values: list[float]) -> Sample:
    """Quantiles of equal distance stand for more values than can be drawn."""
    ordered = sorted(float(v) for v in values)
    count = len(ordered)
    if count > MAX_SAMPLES:
        ordered = [ordered[round(i * (count - 1) / (MAX_SAMPLES - 1))] for i in range(MAX_SAMPLES)]
    return Sample(tuple(ordered), count)


def _limits(
    gates: Iterable[Gate], sets: tuple[str, ...], models: list[str]
) -> list[tuple[str, str, float]]:
    """Gates on the last model's own figures, which a chart shows as a line."""
    own = [
        g
        for g in gates
        if not (g.versus or g.command or g.over)
        and all(name in sets or name == models[-1] for name in g.names)
    ]
    return [(next((n for n in g.names if n in sets), sets[0]), g.figure, g.limit) for g in own]


def _setting(latency: Mapping[str, Any]) -> dict[str, str]:
    """How latency was measured, in words: a name and what it was."""
    words = {
        True: "took turns",
        False: "each alone",
        "tight": "when the times were known well enough",
        "time": "after the time allowed",
        "rounds": "after the rounds allowed",
    }
    names = {"interleaved": "models", "why_stopped": "stopped"}
    return {
        names.get(k, k): words[v] if k in names and v in words else str(v)
        for k, v in latency.items()
        if isinstance(v, str | int | float)
    }


def _versus(row: Mapping[str, Any]) -> Versus:
    """Points for shares, per cent for what has a ratio, the figure's own unit otherwise."""
    ratio, figure = number(row.get("ratio")), str(row["figure"])
    share = figure in FIGURES and "%" in FIGURES[figure][1]
    scale, shift, unit = (
        (100.0, 100.0, "%")
        if ratio is not None
        else (100.0, 0.0, "points")
        if share
        else (1.0, 0.0, "")
    )
    value, interval = (
        (ratio, row.get("ratio_interval"))
        if ratio is not None
        else (float(row["difference"]), row.get("interval"))
    )
    low, high = (x * scale - shift for x in interval) if interval else (None, None)
    return Versus(
        str(row["model"]),
        str(row["versus"]),
        figure,
        str(row.get("data") or ""),
        Value(value * scale - shift, low, high),
        unit,
        verdict(row),
        number(row.get("p")),
        number(row.get("detectable")),
        (row.get("rows_needed") or {}).get("0.03"),
    )


def _seeds(model: str, row: Mapping[str, Any], sets: tuple[str, ...]) -> Iterator[Seeds]:
    others = row.get("seeds") or []
    for data in sets if others else ():
        figures = row["data"].get(data, {})
        figure = next(
            (name for name in ("accuracy", "json_exact", "generated_accuracy") if name in figures),
            "",
        )
        values = [number(r.get("data", {}).get(data, {}).get(figure)) for r in others]
        if figure:
            yield Seeds(
                model, data, figure, (figures[figure], *(v for v in values if v is not None))
            )


def _trends(evidence: Evidence, target: str, metrics: Mapping[str, Any]) -> list[Trend]:
    """Accuracy on each data set and decoding speed over the builds; a trend needs two."""
    builds = [e for e in evidence.entries if target in e.measured][-MAX_POINTS:]
    if len(builds) < 2:
        return []
    models = tuple(metrics["models"])
    found = []
    for figure, data in [*(("accuracy", s) for s in metrics["data"]), ("tokens_per_second", "")]:
        points = []
        for entry in builds:
            known = entry.measured[target].metrics.get("models", {})
            taken = {
                m: known[m].get("data", {}).get(data, {}) if data else known[m]
                for m in models
                if m in known
            }
            values = {
                m: v for m, row in taken.items() if (v := number(row.get(figure))) is not None
            }
            edits = tuple(
                dict.fromkeys(
                    describe(r) for r in entry.causes if r.cause in ("file", "source", "parameter")
                )
            )
            points.append(Point(entry.number, entry.time, values, edits))
        if sum(bool(p.values) for p in points) > 1:
            found.append(Trend(figure, data, models, tuple(points)))
    return found
