"""Rows that were left out or cut, as lines for people, and the report of a step that failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.data.drops import all_told, left_by, report_file, told

EMPTY: dict[str, Any] = {"why": "no value for q", "count": 2, "first": "rows.jsonl:1"}
LONG: dict[str, Any] = {"why": "too long", "count": 3, "first": "", "cut": True}


@pytest.mark.parametrize(
    ("drops", "line"),
    [
        ([], ""),
        ([EMPTY], "2 of 9 rows dropped: 2 x no value for q (first rows.jsonl:1)"),
        ([LONG], "3 of 9 rows cut: 3 x too long"),
        (
            [EMPTY, LONG],
            "2 of 9 rows dropped and 3 cut: 2 x no value for q (first rows.jsonl:1); 3 x too long",
        ),
        (
            [{"why": f"reason {n}", "count": 1, "first": ""} for n in range(7)],
            "7 of 9 rows dropped: 1 x reason 0; 1 x reason 1; 1 x reason 2; 1 x reason 3; "
            "1 x reason 4; 2 more reasons",
        ),
    ],
)
def test_a_line_tells_how_many_why_and_where(drops: list[dict[str, Any]], line: str) -> None:
    assert told({"read": 9, "drops": drops}) == line


def test_rows_of_each_side_have_a_line_of_their_own() -> None:
    figures = {"read": 9, "drops": [EMPTY], "test_read": 4, "test_drops": [LONG]}
    assert all_told(figures) == [
        "2 of 9 rows dropped: 2 x no value for q (first rows.jsonl:1)",
        "3 of 4 test rows cut: 3 x too long",
    ]
    assert all_told({}) == []


def test_the_report_of_a_failed_step_is_read_as_figures(tmp_path: Path) -> None:
    log = tmp_path / "tone.log"
    assert left_by(log) == {}
    report = {"read": 9, "drops": [EMPTY], "test": {"read": 4, "drops": [LONG]}}
    report_file(log).write_text(json.dumps(report))
    assert all_told(left_by(log)) == [
        "2 of 9 rows dropped: 2 x no value for q (first rows.jsonl:1)",
        "3 of 4 test rows cut: 3 x too long",
    ]


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "[" * 100_000])
def test_a_report_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    log = tmp_path / "tone.log"
    report_file(log).write_text(text)
    assert left_by(log) == {}
