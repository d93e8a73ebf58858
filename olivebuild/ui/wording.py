"""Metrics and reasons in words, the same in the terminal and in reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from olivebuild.cache.key import Reason
from olivebuild.core.text import clean, seconds, size
from olivebuild.metrics.catalogue import BY_NAME, is_share, title
from olivebuild.metrics.gates import WORDS, Gate, Judgement
from olivebuild.metrics.pace import SAME_STRUCTURE

if TYPE_CHECKING:
    from olivebuild.engine.history import GateResult
    from olivebuild.metrics.records import Latency, PairedComparison

SHOWN = 8
"""Most names that are listed; of more, their number is shown."""


def listed(names: Sequence[str]) -> str:
    """Return targets by name, or their number if they are many."""
    return ", ".join(names) if len(names) <= SHOWN else f"{len(names):,} targets"


def cost_of_build(cost: float | None, *, is_whole: bool) -> str:
    """Return how long a build takes, by the seconds that its steps took last time."""
    if cost is None:
        return "a time that is not known yet"
    return f"{'about' if is_whole else 'at least'} {seconds(cost)}"


def describe(reason: Reason) -> str:
    """Return a reason as `parameter lr: 0.0001 -> 0.0002`; digests are cut to 8 digits."""
    old, new = (_short(v) for v in (reason.old, reason.new))
    if reason.cause in ("new", "fault", "age"):
        return reason.what
    if reason.cause == "input" and old is None and new is None:
        return f"{reason.what} comes first"
    change = (
        f"{old} -> {new}"
        if old is not None and new is not None
        else f"new: {new}"
        if old is None
        else f"gone: {old}"
    )
    return f"{reason.cause} {reason.what}: {change}"


def _short(value: str | None) -> str | None:
    if value is None:
        return None
    _head, _colon, tail = value.rpartition(":")
    digest = len(tail) == 32 and all(c in "0123456789abcdef" for c in tail)
    return clean(tail[:8] if digest else value if len(value) <= 60 else value[:57] + "...")


def format_metric(name: str, value: float) -> str:
    """Return a benchmark's metric in its unit; a score of the user's own as a number."""
    unit = BY_NAME[name].unit if name in BY_NAME else "number"
    if unit == "share":
        return percent(value)
    if unit == "seconds":
        return duration(value)
    if unit == "bytes":
        return size(value)
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def duration(value: float) -> str:
    """Return a time in seconds as `5.3 ms`, `310 ms` or `1.25 s`."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value * 1e6:.3g} µs"


def since_when(latency: Latency) -> str:
    """Return since when a build's speeds stand that it has not measured itself."""
    when = (latency.measured_at or "").replace("T", " ").replace("Z", " UTC")
    return f"speeds were measured {when}: {SAME_STRUCTURE} again"


def gate_value(gate: str, value: float) -> str:
    """Return the value that a gate judged, in its metric's unit; a drop of a share in points."""
    try:
        parsed = Gate.parse(gate)
    except ValueError:
        return f"{value:.4g}"
    drop = parsed.versus and is_share(parsed.metric)
    return f"{value * 100:.1f} points" if drop else format_metric(parsed.metric, value)


GATE_COLOURS = {"met": "green", "missed": "bold red", "undecided": "yellow"}
SO_FAR = ("accuracy", "json_exact", "generated_accuracy")
"""Metrics of rows by how much they say; the first that a model has is shown while it is judged."""


def so_far(figures: Mapping[str, Any]) -> str:
    """Return what the rows so far say of a model: `accuracy 93.3 % of 120 rows of tone`."""
    name = next((name for name in SO_FAR if name in figures["figures"]), "")
    if not name:
        return ""
    share = percent(figures["figures"][name])
    return f"{title(name)} {share} of {figures['rows']} rows of {figures['data']}"


def standing(gate: Mapping[str, Any]) -> str:
    """Return what the rows so far say of a gate, and of what it will be over all rows."""
    value = gate_value(gate["gate"], gate["value"])
    ends = _range(gate["gate"], gate["interval"])
    return f"{value} in {gate['rows']} rows, {ends} in all {gate['of']}"


def decided(gate: Mapping[str, Any]) -> str:
    """Return a gate's early decision in words."""
    return f"{WORDS[gate['state']]} after {gate['rows']} of {gate['of']} rows ({standing(gate)})"


def gate_note(judged: Judgement | GateResult) -> str:
    """Return the interval of what a gate judged, and how many rows would decide it."""
    parts = []
    if judged.interval:
        parts.append(_range(judged.gate, judged.interval))
    if judged.rows_needed:
        parts.append(f"about {judged.rows_needed:,} rows would decide")
    if judged.why:
        parts.append(judged.why)
    return "; ".join(parts)


def _range(gate: str, interval: Sequence[float]) -> str:
    """Return an interval of what a gate judges: `88.1 to 97.9 %`."""
    low, high = (gate_value(gate, end) for end in interval)
    return f"{low.removesuffix(' ' + high.rpartition(' ')[2])} to {high}"


def verdict(row: PairedComparison) -> str:
    """Return the verdict of a comparison; "unsure" for noise with too wide an interval.

    Few rounds have an interval that would be noise however far apart the two are.
    """
    if row.verdict == "noise" and row.ratio:
        low, high = row.ratio_bounds or (None, None)
        return "noise" if low and high and low < 1.05 and high > 1 / 1.05 else "unsure"
    return row.verdict


def difference(row: PairedComparison) -> str:
    """Return a benchmark's comparison in words.

    `onnx-int4 lost 2.3 points of accuracy on tone against merged: noise (p 0.5; a loss of 12 points
    would show)`, or that one is 1.2 times as fast as the other.
    """
    if row.ratio:
        return _ratio(row, row.ratio)
    noise = row.verdict == "noise"
    what = f"{title(row.figure)} on {row.data}"
    value = row.difference
    if not value and noise:
        return f"{row.model} is as good as {row.versus} in {what}"
    amount = f"{abs(value):.3g} of {what}"
    if is_share(row.figure):
        amount = f"{abs(value) * 100:.1f} points of {what}"
    return (
        f"{row.model} {'lost' if value < 0 else 'gained'} {amount} against {row.versus}: "
        f"{'noise' if noise else row.verdict}{_chance(row)}"
    )


def _ratio(row: PairedComparison, ratio: float) -> str:
    """Return a comparison of times: the inverse of their ratio, with its interval."""
    ends = row.ratio_bounds
    low, high = (1 / ends[1], 1 / ends[0]) if ends else (None, None)
    interval = f" ({low:.3g} to {high:.3g})" if low and high else ""
    doubt = {"noise": ": noise", "unsure": ": too few rounds to be sure"}.get(verdict(row), "")
    times = f"{1 / ratio:.2g}"
    factor = "" if times == "1" else f"{times} times "
    return f"{row.model} is {factor}as fast as {row.versus} by {title(row.figure)}{interval}{doubt}"


def _chance(row: PairedComparison) -> str:
    """Return the p-value in brackets, for noise with the loss that would show; "" without one."""
    if row.p is None:
        return ""
    p = f"p {row.p:.2g}" if row.p >= 0.001 else "p < 0.001"
    if row.verdict == "noise" and row.detectable:
        return f" ({p}; a loss of {row.detectable * 100:.0f} points would show)"
    return f" ({p})"


def percent(value: float | None) -> str:
    """Return a share in per cent; "" for None."""
    return "" if value is None else f"{value * 100:.1f} %"
