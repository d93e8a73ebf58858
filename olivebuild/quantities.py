"""Sizes and spans of time as people write them: 50GB, 512MiB, 30d, 12h."""

from __future__ import annotations

import re

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
