"""A column in words, for people who choose."""

from __future__ import annotations

from olivebuild.core import text
from olivebuild.data.inspection.columns import Column

SHORTEN_TO = 30
"""Characters of a value that is shown."""
FULL = 0.995
"""From this share on a column counts as filled."""


def about(column: Column) -> str:
    """Return what a column holds, and how much of it is empty."""
    words = _content(column)
    if column.content == "empty" or column.share >= FULL:
        return words
    missing = column.rows - column.filled
    return f"{words}; empty in {percent(missing, column.rows)} of the rows"


def short(value: str) -> str:
    """Return a value on one line, cut, without what steers a terminal."""
    line = text.clean(" ".join(value.split()))
    return line if len(line) <= SHORTEN_TO else line[: SHORTEN_TO - 3] + "..."


def percent(part: int, whole: int) -> str:
    """Return a share in whole per cent: `under 1 %` and `over 99 %` are neither none nor all."""
    rounded = round(100 * part / whole)
    if rounded == 0 and part:
        return "under 1 %"
    return "over 99 %" if rounded == 100 and part < whole else f"{rounded} %"


def _content(column: Column) -> str:
    first, count = next(iter(column.counts.items()), ("", 0))
    if column.is_constant:
        return f"one value alone, {short(first)}"
    if column.content == "list":
        sizes = f"{column.fewest} to {column.most}" if column.fewest < column.most else column.most
        return f"lists of {sizes} items"
    if column.is_closed:
        return (
            f"{column.distinct} values, most often {short(first)} ({percent(count, column.filled)})"
        )
    if column.content == "number":
        return f"numbers, {column.distinct} different ones"
    if column.content in ("text", "boolean"):
        return f"texts of {column.mean:.0f} characters on average, at most {column.longest}"
    return WORDS[column.content]


WORDS = {
    "date": "dates",
    "link": "links",
    "id": "numbers or names the rows",
    "conversation": "conversations",
    "object": "objects",
    "empty": "empty",
}
