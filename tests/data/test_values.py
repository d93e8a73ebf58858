"""The values of rows as text that a person would write."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from olivebuild.core.errors import Where
from olivebuild.data.readers import Read, Written
from olivebuild.data.values import is_missing, text_of, tidied, why_not


def written(text: str) -> Written:
    number = Written(text)
    number.text = text
    return number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"), (3, "3"), (0.1, "0.1"), (True, "true"), (Decimal("1E+3"), "1000"),
        (datetime.date(2026, 11, 28), "2026-11-28"), (datetime.time(9, 5), "09:05:00"),
        (written("0.10000000000000000001"), "0.10000000000000000001"),
    ],
)  # fmt: skip
def test_a_value_is_written_as_people_do(value: object, text: str) -> None:
    assert why_not("x", value) is None
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "no value for x"), (" \n", "no value for x"), (float("nan"), "no value for x"),
        (Decimal("NaN"), "no value for x"), (float("inf"), "x is infinite"),
        ([1], "x is not text but a list"), ({}, "x is not text but an object"),
        (b"a", "x is not text but bytes"),
        (datetime.timedelta(1), "x is not text but a duration"),
    ],
)  # fmt: skip
def test_why_a_value_has_no_text(value: object, why: str) -> None:
    assert why_not("x", value) == why
    assert is_missing(value) == why.startswith("no value")


MIDNIGHT = datetime.datetime(2026, 11, 28)


@pytest.mark.parametrize(
    ("values", "turned", "told"),
    [
        ([1.0, None, 2.0], [1, None, 2], "the numbers of x are whole: they are written 1, not 1.0"),
        ([1.0, 2.5], [1.0, 2.5], ""),
        ([1.0, 2], [1.0, 2], ""),
        ([2.0**60], [2.0**60], ""),
        (
            [MIDNIGHT, None],
            [MIDNIGHT.date(), None],
            "the times of x are all midnight: they are written 2026-11-28",
        ),
        ([MIDNIGHT.replace(hour=1)], [MIDNIGHT.replace(hour=1)], ""),
        ([None, ""], [None, ""], ""),
    ],
)
def test_columns_that_a_program_has_changed_are_turned_back(
    values: list[Any], turned: list[Any], told: str
) -> None:
    rows = [Read({"x": value, "y": 1.0}, Where("a", i)) for i, value in enumerate(values, 1)]
    tidy, notes = tidied(rows, ["x", "x", "absent"])
    assert [row.columns["x"] for row in tidy] == turned
    assert [type(row.columns["x"]) for row in tidy] == [type(value) for value in turned]
    assert all(row.columns["y"] == 1.0 for row in tidy)
    assert notes == ([told] if told else [])
