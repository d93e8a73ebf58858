"""Text that people write and read: sizes (50GB, 512MiB), spans of time (30d, 12h), and the name that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
SPANS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def size_of(text: str) -> int:
    """Bytes. Raises ValueError."""
    return _read(text, SIZES, f"{text!r} is no size; write a number and a unit: 50GB, 512MiB")


def span_of(text: str) -> int:
    """Seconds. Raises ValueError."""
    return _read(text, SPANS, f"{text!r} is no span of time; write a number and a unit: 30d, 12h, 2w")


def _read(text: str, units: dict[str, int], complaint: str) -> int:
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z]+)", text.strip(), re.ASCII)
    if not found or found[2].lower() not in units:
        raise ValueError(complaint)
    return int(float(found[1]) * units[found[2].lower()])


FEW = 40
"""More names than any kind has keys: a hint that is a page long helps nobody."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest of the known ones, or the first of them."""
    import difflib

    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    more = f" and {len(known) - FEW:,} more" if len(known) > FEW else ""
    return f"known are: {', '.join(known[:FEW])}{more}"
