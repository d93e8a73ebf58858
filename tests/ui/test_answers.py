"""Which answers differ between columns of them."""

from __future__ import annotations

import pytest

from olivebuild.metrics.records import Answer
from olivebuild.ui.report.collect.answers import _flips, _reply
from olivebuild.ui.report.records import Move, Reply


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        # The likeliest label counts where there is one.
        (Answer(expected="joy", label="sad", text="joy"), Reply("sad", False)),
        (Answer(expected="joy", label="joy", text="?"), Reply("joy", True)),
        (Answer(expected="joy", text="sad", right=True), Reply("sad", True)),
        (Answer(expected="Joy", text=" joy\n"), Reply(" joy\n", True)),
        (Answer(), Reply("", True)),
    ],
)
def test_an_answer_is_judged_by_its_label_or_else_its_text(answer: Answer, reply: Reply) -> None:
    assert _reply(answer) == reply


def column(*labels: str) -> list[Answer]:
    return [Answer(expected="a", label=label) for label in labels]


def test_rows_on_which_the_last_two_columns_differ_come_first() -> None:
    columns = {
        "base": column("b", "b", "a", "a", "a", "b"),
        "merged": column("a", "b", "a", "a", "b", "c"),
        "int4": column("a", "b", "b", "a", "a", "d"),
    }
    texts = [f"row {number}" for number in range(6)]
    flips = _flips("tone", "", columns, texts, range(6))
    assert flips
    assert flips.moves == (Move("base", "merged", 1, 1, 1), Move("merged", "int4", 1, 1, 1))
    # What was lost comes before what was won and what is wrong otherwise.
    assert [flip.number for flip in flips.rows] == [3, 6, 5]
    assert [flip.number for flip in flips.others] == [1]
    assert (flips.rows[0].text, flips.rows[0].expected) == ("row 2", "a")


def test_answers_that_are_alike_are_no_flips() -> None:
    assert _flips("tone", "", {"a": column("a"), "b": column("a")}, ["x"], range(1)) is None
