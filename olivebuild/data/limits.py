"""Limits on how much of a data file is taken into memory.

By packing, or by saying once what stands a million times, a small one may be rows without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr

from olivebuild.core.errors import InputError, Where

LARGEST_RATIO, FREE_BYTES = 200, 1 << 26
"""A file that becomes more than this many times its size, beyond the first bytes, is taken for one
made to fill the memory.
"""
ROW_BYTES = 512
"""What a row takes beside its values."""
LONGEST_LINE = 1 << 26
"""Characters or bytes of a line, and of a CSV value: no use of a row is that long, and a quote that
is never closed must not take all memory.
"""


class Share:
    """Room that a file may still take."""

    def __init__(self, path: Path, shown: str, what: str, hint: str) -> None:
        self.left, self._shown, self._what, self._hint = (
            FREE_BYTES + LARGEST_RATIO * path.stat().st_size,
            shown,
            what,
            hint,
        )

    def take(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise InputError(
                f"{self._what} more than {LARGEST_RATIO} times its size",
                where=self._shown,
                hint=self._hint,
            )


def share_of_packed(path: Path, shown: str) -> Share:
    return Share(
        path, shown, "the file unpacks to", "unpack it yourself if it is what it should be"
    )


def share_of_parquet(path: Path, shown: str) -> Share:
    return Share(
        path,
        shown,
        "the rows of the file take",
        "write it as .jsonl, which may be as long as it is, if it is what it should be",
    )


def lines_of(file: IO[AnyStr], shown: str) -> Iterator[AnyStr]:
    """The lines of a file.

    Raises InputError with the place of one that is too long, of which no more was read than that.
    """
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            fact = f"a line of more than {LONGEST_LINE >> 20} MiB"
            raise InputError(
                fact,
                where=Where(shown, number),
                hint="each row is a line of its own: are line ends missing?",
            )
        yield line
