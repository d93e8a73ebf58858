"""Dropped and cut rows in words."""

from __future__ import annotations

from typing import Any

from olivebuild.metrics.diagnostics.rows import of_drops


def drop(why: str, count: int, **more: Any) -> dict[str, Any]:
    return {"why": why, "count": count, "first": "data/rows.jsonl:3", "fault": True, **more}


def test_rows_that_were_dropped_or_cut() -> None:
    metrics = {
        "read": 100,
        "drops": [drop("no value for input", 4), drop("too long", 7, cut=True)],
        "test_read": 20,
        "test_drops": [drop("no value for input", 1)],
    }
    dropped, cut, test = of_drops("tone", metrics)
    assert (dropped.code, cut.code, test.code) == ("rows-dropped", "rows-cut", "rows-dropped")
    assert dropped.text == (
        "4 of 100 rows of tone were dropped: 4 x no value for input (first data/rows.jsonl:3)"
    )
    assert cut.text == "7 of 100 rows of tone were cut: 7 x too long (first data/rows.jsonl:3)"
    assert test.text.startswith("1 of 20 test rows of tone were dropped")
    assert dropped.figures == {"rows": 100, "count": 4, "share": 0.04}


def test_rows_that_say_themselves_that_they_are_not_to_be_learnt_are_no_fault() -> None:
    assert [*of_drops("tone", {"read": 9, "drops": [drop("learn: false", 2, fault=False)]})] == []
    assert [*of_drops("tone", {"read": 9})] == []
    assert [*of_drops("tone", {"drops": None, "read": 9})] == []
