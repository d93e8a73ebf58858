"""Geometry of a page's charts: positions in per cent of the plot, ticks, and tables of values.

Knows no markup. Plots stretch with the page while their text does not, so positions are per cent
and labels stand outside the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from olivebuild.metrics.catalogue import title as title_of
from olivebuild.ui.report.records import Bench, Training, Trend, Value
from olivebuild.ui.wording import duration, format_metric

FEW = 30
"""A line of no more points shows each of them."""
NARROW_STRIP, NARROW_PLOT = 100.0, 280.0
"""Pixels that are left for a strip beside long names, and for a plot, on a phone."""
LETTER, GAP = 7.5, 8.0
"""Pixels that a letter of a label takes at most, and that are free between two labels."""
Tick = tuple[float, str]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Table:
    """A chart's values."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Series:
    """A line as an SVG path over 100 x 100, and its points. `rank` 0 is the one that matters."""

    name: str
    path: str
    dots: tuple[tuple[float, float], ...]
    rank: int
    dotted: bool


@dataclass(frozen=True)
class LineChart:
    title: str
    series: tuple[Series, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    table: Table


@dataclass(frozen=True)
class Strip:
    """A row: a value with its interval, or a distribution.

    `band` is the interval (or the middle half), `ends` the whiskers.
    """

    name: str
    at: float
    text: str
    band: tuple[float, float] | None
    ends: tuple[float, float] | None
    dots: tuple[float, ...]
    rank: int
    note: str = ""


@dataclass(frozen=True)
class StripChart:
    title: str
    strips: tuple[Strip, ...]
    x: tuple[Tick, ...]
    limits: tuple[Tick, ...]
    table: Table


def accuracy(bench: Bench, data: str, name: str = "accuracy") -> StripChart | None:
    """Return a share of models, then of classifiers, on one data set, with the gate as a line.

    None where no model has the metric.
    """
    measured: list[tuple[str, Value, int]] = []
    for i, model in enumerate(bench.models):
        value = model.sets[data].figures.get(name) if data in model.sets else None
        if value:
            measured.append((model.name, value, len(bench.models) - 1 - i))
    if not measured:
        return None
    if name == "accuracy":
        measured += [
            (label, Value(values[data]), 9)
            for label, values in bench.baselines.items()
            if data in values
        ]
    strips = [_interval(label, value, name, rank) for label, value, rank in measured]
    limits = [
        (limit * 100, f"gate {format_metric(name, limit)}")
        for s, f, limit in bench.limits
        if s == data and f == name
    ]
    ticks = tuple((float(x), f"{x}") for x in (0, 25, 50, 75, 100))
    rows = tuple(
        (
            label,
            *(format_metric(name, x) if x is not None else "" for x in (v.value, v.low, v.high)),
        )
        for label, v, _ in measured
    )
    return StripChart(
        f"{title_of(name)} on {data}, %",
        tuple(strips),
        ticks,
        tuple(limits),
        Table(("model", title_of(name), "from", "to"), rows),
    )


def _interval(label: str, value: Value, name: str, rank: int) -> Strip:
    has_interval = value.low is not None and value.high is not None
    band = (
        (value.low * 100, value.high * 100)
        if value.low is not None and value.high is not None
        else None
    )
    note = (
        f"{value.low * 100:.0f} to {value.high * 100:.0f}"
        if has_interval and value.low is not None and value.high is not None
        else ""
    )
    return Strip(
        label, value.value * 100, format_metric(name, value.value), None, band, (), rank, note
    )


def latency(bench: Bench, kind: str, title: str) -> StripChart | None:
    """Return the distributions of one kind of raw sample, all models on one scale."""
    samples = [
        (m.name, m.samples[kind], len(bench.models) - 1 - i)
        for i, m in enumerate(bench.models)
        if kind in m.samples
    ]
    if not samples:
        return None
    low, high = min(s.values[0] for _, s, _ in samples), max(s.values[-1] for _, s, _ in samples)
    to_x, ticks = scale(low, high, log=low > 0 and high / low > 8)
    strips, rows = [], []
    for name, sample, rank in samples:
        p5, p25, p50, p75, p95, p99 = (
            quantile(sample.values, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
        )
        dots = tuple(to_x(v) for v in sample.values)
        strips.append(
            Strip(
                name,
                to_x(p50),
                duration(p50),
                (to_x(p25), to_x(p75)),
                (to_x(p5), to_x(p95)),
                dots,
                rank,
            )
        )
        rows.append(
            (
                name,
                *(duration(v) for v in (sample.values[0], p50, p95, p99, sample.values[-1])),
                f"{sample.count:,}",
            )
        )
    shown = spaced([(to_x(v), duration(v)) for v in few(ticks, 6)], NARROW_STRIP)
    return StripChart(
        title,
        tuple(strips),
        shown,
        (),
        Table(("model", "least", "p50", "p95", "p99", "most", "samples"), tuple(rows)),
    )


def quantile(values: Sequence[float], q: float) -> float:
    """Return a quantile of sorted values, interpolated linearly between neighbours."""
    at = q * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def training(run: Training, names: Sequence[str], title: str) -> LineChart | None:
    """Return curves over training steps on one scale; None where a run has none of them."""
    curves = {c.name: c.points for c in run.curves if c.name in names and c.points}
    if not curves:
        return None
    return _lines(
        title, curves, {name: i for i, name in enumerate(curves)}, "step", lambda v: f"{v:.4g}"
    )


def trend(history: Trend) -> LineChart:
    """Return a metric over builds, with a mark where something was edited.

    Builds stand side by side, whatever time lay between.
    """
    places = {point.build: float(i) for i, point in enumerate(history.points)}
    curves = {
        m: [(places[p.build], p.values[m]) for p in history.points if m in p.values]
        for m in history.models
    }
    ranks = {m: len(history.models) - 1 - i for i, m in enumerate(history.models)}
    title = (
        f"{title_of(history.figure)} on {history.data}"
        if history.data
        else title_of(history.figure)
    )
    curves = {m: line for m, line in curves.items() if line}
    head = ("build", "when", *curves, "edited")
    rows = tuple(
        (
            str(p.build),
            p.time.replace("T", " ").rstrip("Z"),
            *(format_metric(history.figure, p.values[m]) if m in p.values else "" for m in curves),
            "; ".join(p.edits),
        )
        for p in history.points
    )
    chart = _lines(title, curves, ranks, "build", lambda v: format_metric(history.figure, v))
    step = max(1, math.ceil(len(history.points) / 8))
    last = max(1, len(history.points) - 1)
    ticks = spaced(
        [(i * 100 / last, str(p.build)) for i, p in enumerate(history.points) if i % step == 0],
        NARROW_PLOT,
    )
    marks = tuple(
        (i * 100 / last, "; ".join(p.edits)) for i, p in enumerate(history.points) if p.edits
    )
    return LineChart(title, chart.series, ticks, chart.y, marks, Table(head, rows))


def _lines(
    title: str,
    curves: Mapping[str, Points],
    ranks: Mapping[str, int],
    unit: str,
    show: Callable[[float], str],
) -> LineChart:
    xs, ys = (
        [p[0] for line in curves.values() for p in line],
        [p[1] for line in curves.values() for p in line],
    )
    low, high = min(ys), max(ys)
    to_y, y_ticks = scale(low, high, log=False)
    left, right = min(xs), max(xs)
    width = right - left or 1.0
    series = []
    for name, line in curves.items():
        dots = tuple((round((x - left) / width * 100, 3), round(100 - to_y(y), 3)) for x, y in line)
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in dots)
        series.append(Series(name, path, dots, ranks.get(name, 0), len(dots) <= FEW))
    at = sorted(set(xs))
    values = [dict(line) for line in curves.values()]
    rows = tuple((f"{x:g}", *(show(v[x]) if x in v else "" for v in values)) for x in at)
    # Between whole steps there is nothing.
    whole = all(x == int(x) for x in at)
    x_ticks = spaced(
        [
            ((x - left) / width * 100, f"{x:g}")
            for x in nice(left, right, 6)
            if not whole or x == int(x)
        ],
        NARROW_PLOT,
    )
    shown = tuple((100 - to_y(v), show(v).replace(".0 %", " %")) for v in y_ticks)
    return LineChart(title, tuple(series), x_ticks, shown, (), Table((unit, *curves), rows))


def scale(low: float, high: float, *, log: bool) -> tuple[Callable[[float], float], list[float]]:
    """Return a function from value to per cent, with margins, and round values for ticks."""
    if log:
        a, b = math.log10(low), math.log10(high)
        air = (b - a) * 0.04
        return lambda v: (math.log10(v) - a + air) / (b - a + 2 * air) * 100, _log_ticks(low, high)
    width = high - low or abs(high) or 1.0
    bottom, top = low - width * 0.05, high + width * 0.05
    return lambda v: (v - bottom) / (top - bottom) * 100, [
        v for v in nice(bottom, top, 5) if bottom <= v <= top
    ]


def few(ticks: Sequence[float], most: int) -> Sequence[float]:
    """Return at most `most` of the ticks, so that labels do not overlap."""
    return ticks[:: math.ceil(len(ticks) / most)] if ticks else ticks


def spaced(ticks: Sequence[Tick], width: float) -> tuple[Tick, ...]:
    """Return the ticks whose labels do not touch in a plot of that many pixels, the first first.

    A chart is as wide as its page; `width` is that on a phone.
    """
    kept: list[Tick] = []
    end = -math.inf
    for at, text in sorted(ticks):
        half = len(text) * LETTER / 2
        if at * width / 100 - half >= end + GAP:
            kept.append((at, text))
            end = at * width / 100 + half
    return tuple(kept)


def nice(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round values from low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine: Iterable[int] = (1, 2, 5) if high / low < 200 else (1,)
    return [v for p in powers for m in fine if low <= (v := m * 10.0**p) <= high]
