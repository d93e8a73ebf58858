"""What an edit changed in a data set: rows that were reworded, added and removed."""

from __future__ import annotations

import pytest

from olivebuild.ui.report.collect.datasets import _paired, _report
from olivebuild.ui.report.records import Edit


def test_a_row_that_was_reworded_is_one_edit() -> None:
    gone = ["I am glad about my phone → joy", "the river is long → sad"]
    come = ["a new row altogether! → fear", "I am glad about the phone → joy"]
    assert _paired("train", gone, come) == [
        Edit("train", "I am glad about my phone → joy", "I am glad about the phone → joy"),
        Edit("train", "the river is long → sad", ""),
        Edit("train", "", "a new row altogether! → fear"),
    ]


def test_many_rows_are_not_compared_one_by_one() -> None:
    gone, come = ([f"{word} {number}" for number in range(30)] for word in ("row", "rows"))
    assert _paired("test", gone, come) == [
        *(Edit("test", text, "") for text in gone),
        *(Edit("test", "", text) for text in come),
    ]


@pytest.mark.parametrize("data", [None, b"", b"{", b"[1]", b"[" * 100_000])
def test_a_report_that_is_none_is_empty(data: bytes | None) -> None:
    assert _report(data) == {}
