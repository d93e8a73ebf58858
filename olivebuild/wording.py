"""Figures and reasons in words, the same in the terminal and in reports."""

from __future__ import annotations

from olivebuild.gates import FIGURES
from olivebuild.key import Reason


def clean(text: str) -> str:
    """Without control characters: names and messages may come from files, and must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.replace("\t", " "))


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(value: float) -> str:
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def describe(reason: Reason) -> str:
    """`lr: 0.0001 -> 0.0002`; digests are cut to what tells them apart."""
    old, new = (_short(v) for v in (reason.old, reason.new))
    if reason.cause == "new":
        return reason.what
    if reason.cause == "input" and old is None and new is None:
        return f"{reason.what} comes first"
    change = f"{old} -> {new}" if old is not None and new is not None else f"new: {new}" if old is None else f"gone: {old}"
    return f"{reason.cause} {reason.what}: {change}"


def _short(value: str | None) -> str | None:
    if value is None:
        return None
    _head, _colon, tail = value.rpartition(":")
    digest = len(tail) == 32 and all(c in "0123456789abcdef" for c in tail)
    return clean(tail[:8] if digest else value if len(value) <= 60 else value[:57] + "...")


def figure(name: str, value: float) -> str:
    """A figure of a benchmark in its unit."""
    units = FIGURES[name][1]
    if "%" in units:
        return percent(value)
    if "ms" in units:
        return f"{value * 1000:.0f} ms" if value < 1 else seconds(value)
    return size(value) if "MB" in units else f"{value:.4g}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.1f} %"
