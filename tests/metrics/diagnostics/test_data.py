"""Dropped and cut rows, and test rows that were trained on, in words."""

from __future__ import annotations

from typing import Any

from olivebuild.metrics.diagnostics.data import Overlap, of_drops, of_overlaps
from olivebuild.metrics.diagnostics.lineage import Lineage
from tests.metrics.diagnostics.simulated import benchmark

LINEAGES = {"merged": Lineage(source="base", trained_on=("tone",)), "base": Lineage()}


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


def test_test_rows_that_were_trained_on() -> None:
    expected = ["joy", "sad"] * 20
    answers = [e if i < 10 else "joy" for i, e in enumerate(expected)]
    metrics = benchmark(expected, {"base": expected, "merged": answers})
    overlap = Overlap(
        train="tone",
        data="tone",
        rows=40,
        same=4,
        test_rows=tuple(range(10)),
        places=("data/hard.jsonl:1 is data/tone.jsonl:9",),
    )
    (seen,) = of_overlaps(metrics, LINEAGES, [overlap])
    assert seen.severity == "error"
    assert seen.text == (
        "10 of the 40 test rows of tone stand in the training rows of tone, 4 of them to the "
        "letter (first data/hard.jsonl:1 is data/tone.jsonl:9): merged learnt them; merged answers "
        "100.0 % of them rightly, of the other 30 50.0 %"
    )
    assert seen.figures["accuracy_seen"] == 1.0
    assert seen.figures["accuracy_others"] == 0.5


def test_a_row_that_moves_no_figure_is_a_warning() -> None:
    expected = ["joy", "sad"] * 20
    metrics = benchmark(expected, {"merged": expected})
    overlap = Overlap(train="tone", data="tone", rows=40, same=1, test_rows=(3,))
    (seen,) = of_overlaps(metrics, LINEAGES, [overlap])
    assert seen.severity == "warning"
    assert [*of_overlaps(metrics, {}, [overlap])] == []
