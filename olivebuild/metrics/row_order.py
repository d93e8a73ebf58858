"""The order in which a benchmark asks the rows of a data set: random, and always the same.

A decision before the last row (`early_decision.py`) holds for rows that come in random order; files
are often sorted. Answers are counted and stored in the order of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

CHUNK = 32
"""Rows that are asked together, sorted by length: those of about one length share batches with
little padding.
"""


@lru_cache(maxsize=8)
def row_order(rows: int) -> tuple[int, ...]:
    """Return the numbers 0 to `rows` - 1, shuffled.

    The same on every machine and in every version of Python: by the hash of the number.
    """
    return tuple(sorted(range(rows), key=_drawn))


def asking_order(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows in chunks of the shuffled order, the longest of a chunk first.

    `lengths`: of each row, in tokens or any other measure.
    """
    order = row_order(len(lengths))
    chunks = [order[i : i + CHUNK] for i in range(0, len(order), CHUNK)]
    return [sorted(chunk, key=lambda row: -lengths[row]) for chunk in chunks]


def _drawn(row: int) -> bytes:
    return blake2b(b"row %d" % row, digest_size=16).digest()
