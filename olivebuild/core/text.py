"""Text that people write and read.

Sizes (50GB), spans of time (30d), the name that was meant, and text without what steers a terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from olivebuild.core.errors import InvalidValue, Problem
from olivebuild.core.streams import escaped

_SPACES = dict.fromkeys(
    map(chr, (0x9, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)), " "
)
_JOINERS = "\u200c\u200d"
"""Words of some languages and some signs need them; they move nothing."""
SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_FORM = "write a number and a unit"
SPANS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def size_of(text: str) -> int:
    """Return bytes. Raises InvalidValue."""
    return _read(text, SIZES, Problem(f"{text!r} is no size", f"{_FORM}: 50GB, 512MiB"))


def span_of(text: str) -> int:
    """Return seconds. Raises InvalidValue."""
    return _read(text, SPANS, Problem(f"{text!r} is no span of time", f"{_FORM}: 30d, 12h, 2w"))


def _read(text: str, units: dict[str, int], problem: Problem) -> int:
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z]+)", text.strip(), re.ASCII)
    if not match or match[2].lower() not in units:
        raise InvalidValue(*problem)
    return int(float(match[1]) * units[match[2].lower()])


FEW = 40
"""More names than any kind has keys: a hint that is a page long helps nobody."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest of the known ones, or the first of them."""
    import difflib

    names = list(names)
    if close := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return f"known are: {', '.join(names[:FEW])}{more}"


def clean(text: str) -> str:
    """Return text in which what steers a terminal or turns a line's direction is escaped.

    Names and messages may come from files.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" or c in _JOINERS else _SPACES.get(c) or escaped(c)
        for c in text
    )


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def size(value: float) -> str:
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def aside(text: str) -> None:
    """Say on stderr what is no error and belongs to no target, as soon as it is known.

    Not to what collects the answer of a build.
    """
    stream = sys.__stderr__
    try:
        if stream:
            stream.write(f"note: {clean(text)}\n")
            stream.flush()
    except (OSError, ValueError):
        # Nobody listens.
        return
