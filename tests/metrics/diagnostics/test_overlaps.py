"""Test rows that were trained on, in words."""

from __future__ import annotations

from olivebuild.metrics.diagnostics.lineage import Lineage
from olivebuild.metrics.diagnostics.overlaps import Overlap, of_overlaps
from tests.metrics.diagnostics.simulated import benchmark

LINEAGES = {"merged": Lineage(source="base", trained_on=("tone",)), "base": Lineage()}


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
        "10 of the 40 test rows of tone stand in the training rows of tone, 4 of them word for "
        "word (first data/hard.jsonl:1 is data/tone.jsonl:9): merged learnt them; merged answers "
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
