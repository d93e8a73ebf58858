"""Slices of rows, as the `datasets` library writes them after a split: `:70%`, `4096:4224`.

https://huggingface.co/docs/datasets/loading#slice-splits, rounding "closest".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from olivebuild.core.errors import InvalidValue

_FORM = re.compile(r"(?P<start>-?\d+)?(?P<start_share>%)?:(?P<stop>-?\d+)?(?P<stop_share>%)?")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The bounds of a slice: rows, or percents where `share`; None is the end of the rows."""

    start: int | None
    stop: int | None
    share: bool

    @staticmethod
    def parse(text: str) -> Slice:
        """Raises InvalidValue for text of another form, and for rows and percents mixed."""
        m = _FORM.fullmatch(text)
        empty_share = m and ((m[2] and not m[1]) or (m[4] and not m[3]))
        if not m or empty_share:
            raise InvalidValue(
                f"{text!r} is no slice of rows", "write for example ':70%', '-128:' or '100:200'"
            )
        bounds = [b for b in (m[1], m[3]) if b is not None]
        shares = [s for s in (m[2], m[4]) if s]
        if shares and len(shares) < len(bounds):
            raise InvalidValue(
                f"{text!r} mixes rows and percents", "write both bounds in rows, or both with %"
            )
        if shares and any(abs(int(b)) > 100 for b in bounds):
            raise InvalidValue(f"{text!r} is more than all rows", "at most 100%")
        return Slice(
            start=None if m[1] is None else int(m[1]),
            stop=None if m[3] is None else int(m[3]),
            share=bool(shares),
        )

    def of(self, count: int) -> slice:
        """Return the slice of so many rows; percents are rounded to the nearest row."""
        return slice(self._bound(self.start, 0, count), self._bound(self.stop, count, count))

    def _bound(self, value: int | None, end: int, count: int) -> int:
        if value is None:
            return end
        row = round(value * count / 100) if self.share else value
        return min(max(count + row, 0) if row < 0 else row, count)
