"""Tango's score of a paired difference of shares, without libraries: a build may need it early."""

from __future__ import annotations

import math


def tango_score(won: int, lost: int, rows: int, delta: float) -> float:
    """Return how many standard deviations (won - lost) / rows lies above the difference `delta`.

    Tango 1998, Statistics in Medicine 17:891. It falls as `delta` grows. `won` and `lost` are the
    rows that only the first or only the second of two models got right.
    """
    # The share of rows lost that is likeliest if the difference is delta.
    b = won + lost - (2 * rows - won + lost) * delta
    share = (math.sqrt(max(0.0, b * b + 8 * rows * lost * delta * (1 - delta))) + b) / (4 * rows)
    spread = rows * (2 * share + delta * (1 - delta))
    if spread > 0:
        return (won - lost - rows * delta) / math.sqrt(spread)
    return math.copysign(math.inf, (won - lost) / rows - delta)
