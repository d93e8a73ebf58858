"""The order in which a benchmark asks the rows of a data set: random, and always the same.

A decision before the last row (`early_decision.py`) holds for rows that come in random order; files
are often sorted. Answers are counted and stored in the order of the file.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b


@lru_cache(maxsize=8)
def row_order(rows: int) -> tuple[int, ...]:
    """Return the numbers 0 to `rows` - 1, shuffled.

    The same on every machine and in every version of Python: by the hash of the number.
    """
    return tuple(sorted(range(rows), key=_drawn))


def _drawn(row: int) -> bytes:
    return blake2b(b"row %d" % row, digest_size=16).digest()
