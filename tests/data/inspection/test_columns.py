"""Columns as people's files have them: ids, dates, numbers, labels, texts, lists, conversations."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from olivebuild.data.inspection.about import about, percent, short
from olivebuild.data.inspection.columns import Column, describe

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def column(values: list[Any]) -> Column:
    (only,) = describe([{"a": value} for value in values])
    return only


@pytest.mark.parametrize(
    ("values", "content"),
    [
        ([1, 2, 3], "id"),
        (["7", "8", "9"], "id"),
        ([3.0, 4.0, 5.0], "id"),
        (["INC-001", "INC-002", "INC-003"], "id"),
        (["c6c58a4e-7f5e-4c31-9f2b-0d1a2b3c4d5e", "0b7c", "a1"], "id"),
        ([1, 2, 2], "number"),
        (["1,50", "2.50", "1.200,75", "-3 %"], "number"),
        (["a1", "a1", "b2"], "text"),
        (["2026-11-28", "2026-1-2T08:00:00Z", "2026-01-03 10:11"], "date"),
        (["28.11.2026", "1/2/26 8:15 AM", "03.04.2026 12:00:01"], "date"),
        ([datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4), None], "date"),
        (["https://example.org/a", "www.example.org/b", "http://c.d"], "link"),
        ([True, False, True], "boolean"),
        ([["a"], [], ["a", "b"]], "list"),
        ([{"text": ["a"]}, {"text": []}, {"text": ["c"]}], "object"),
        ([b"\x89PNG", b"\x89PNG", b""], "object"),
        ([CHAT, CHAT, None], "conversation"),
        ([json.dumps(CHAT), "", json.dumps(CHAT)], "conversation"),
        ([{"messages": CHAT}, {"messages": CHAT}], "conversation"),
        ([None, "", float("nan")], "empty"),
        (["It is late, I know.", "No 2", "v3"], "text"),
    ],
)
def test_what_a_column_holds(values: list[Any], content: str) -> None:
    assert column(values).content == content


def test_values_are_counted_as_a_build_writes_them() -> None:
    labels = column([1.0, 2.0, None, 2.0])
    assert dict(labels.counts) == {"2": 2, "1": 1}
    assert (labels.filled, labels.rows, labels.distinct) == (3, 4, 2)
    assert list(labels.counts) == ["2", "1"]


@pytest.mark.parametrize(
    ("values", "closed"),
    [
        (["joy", "fear"] * 10, True),
        (["joy"] * 20, False),
        ([f"text {n}" for n in range(20)], False),
        (["x" * 200, "y" * 200] * 10, False),
        ([1, 2, 3, 4, 5] * 4, True),
        (["yes", "no"] + [None] * 50, False),
    ],
)
def test_a_closed_set_has_few_short_values_that_come_again(values: list[Any], closed: bool) -> None:
    assert column(values).is_closed == closed


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["a"] * 9 + ["b"], "2 values, most often a (90 %)"),
        (["one", "one", "one", ""], "one value alone, one; empty in 25 % of the rows"),
        ([1.5, 2.25, 3.0], "numbers, 3 different ones"),
        (["some words", "other ones here"], "texts of 12 characters on average, at most 15"),
        ([["a"], ["a", "b"]], "lists of 1 to 2 items"),
        ([["a", "b"], ["c", "d"]], "lists of 2 items"),
        ([None], "empty"),
        ([1, 2, 3], "numbers or names the rows"),
    ],
)
def test_a_column_in_words(values: list[Any], words: str) -> None:
    assert about(column(values)) == words


def test_a_value_is_shown_on_one_line_and_steers_no_terminal() -> None:
    assert short("a\n\x1b[31mred\x07") == "a \\u001b[31mred\\u0007"
    assert short("\u202edne") == "\\u202edne"
    assert short("x" * 40) == "x" * 27 + "..."


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1, 3, "33 %"), (1, 1000, "under 1 %"), (999, 1000, "over 99 %"), (3, 3, "100 %")],
)
def test_a_few_are_not_none(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text
