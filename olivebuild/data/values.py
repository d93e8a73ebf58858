"""The values of a row as text that a person would write, or why there is none."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from olivebuild.data.readers import Read, Written

DATES = (datetime.date, datetime.time)
LARGEST_WHOLE = 1 << 53


def text_of(value: object) -> str:
    """A value that `why_not` has nothing against. Numbers and truth are written as in JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Written):
        return value.text
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, DATES) else json.dumps(value)


def is_missing(value: object) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or (isinstance(value, str) and not value.strip())


def why_not(name: str, value: object) -> str | None:
    """Why the value of column `name` can't be written as text; None if it can."""
    if is_missing(value):
        return f"no value for {name}"
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        return f"{name} is infinite"
    if isinstance(value, (str, int, float, Decimal, *DATES)):
        return None
    return f"{name} is not text but {_kind(value)}"


def _kind(value: object) -> str:
    kinds = {"list": "a list", "dict": "an object", "bytes": "bytes", "timedelta": "a duration"}
    return kinds.get(type(value).__name__, type(value).__name__)


def tidied(rows: Sequence[Read], names: Iterable[str]) -> tuple[list[Read], list[str]]:
    """Return the rows with tidied values, and a line for each column that has some.

    Of the columns `names`, those that a program keeps as another kind of value than what was put
    in.

    Whole numbers become floating point where some are missing, and dates become points in time:
    both are turned back, if all of the column allow it.
    """
    tidy_rows, notes = list(rows), []
    for name in dict.fromkeys(names):
        values = [v for row in tidy_rows if not is_missing(v := row.columns.get(name))]
        turn = _turn(values)
        if turn:
            tidy_rows = [
                row
                if is_missing(v := row.columns.get(name))
                else replace(row, columns=row.columns | {name: turn(v)})
                for row in tidy_rows
            ]
            notes.append(_told(name, values[0], turn))
    return tidy_rows, notes


def tidied_values(values: Sequence[Any]) -> list[Any]:
    """Return the values of a column, none of them missing, with what `tidied` turns back."""
    turn = _turn(values)
    return [turn(v) for v in values] if turn else list(values)


def _turn(values: Sequence[Any]) -> Callable[[Any], object] | None:
    """Return what turns the values of a column back; None where they are what was put in."""
    if not values:
        return None
    if all(type(v) is float and v.is_integer() and abs(v) < LARGEST_WHOLE for v in values):
        return int
    if all(
        isinstance(v, datetime.datetime) and v.tzinfo is None and v.time() == datetime.time()
        for v in values
    ):
        return datetime.datetime.date
    return None


def _told(name: str, first: Any, turn: Callable[[Any], object]) -> str:
    """Return a note on a column that is turned back, by its first value."""
    if turn is int:
        return f"the numbers of {name} are whole: they are written {int(first)}, not {first}"
    return f"the times of {name} are all midnight: they are written {turn(first)}"
