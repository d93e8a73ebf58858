"""Rows that are kept and how they are divided: as the build of a data set does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.data.inspection.choice import Choice, choose
from olivebuild.data.inspection.columns import describe
from olivebuild.data.inspection.sources import look
from olivebuild.data.inspection.usable import division, usable
from tests.support import own_data

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def choice_of(rows: list[dict[str, Any]]) -> Choice:
    choice = choose(describe(rows), rows)
    assert isinstance(choice, Choice)
    return choice


def test_incomplete_and_repeated_rows_are_counted() -> None:
    rows: list[dict[str, Any]] = [
        {"text": f"a text {n}", "label": "ä" * (1 + n % 2)} for n in range(8)
    ]
    rows += [rows[0], {"text": "", "label": "ä"}, {"text": "b", "label": None}]
    seen = usable(rows, choice_of(rows))
    assert (seen.read, seen.kept, seen.duplicates, seen.incomplete) == (11, 8, 1, 2)
    assert seen.answers == {"ä": 4, "ää": 4}
    assert seen.longest_answer == 4


def test_conversations_end_with_an_answer() -> None:
    rows: list[dict[str, Any]] = [
        {"messages": CHAT},
        {"messages": [*CHAT, *CHAT]},
        {"messages": CHAT[:1]},
        {"messages": None},
    ]
    seen = usable(rows, choice_of(rows))
    assert (seen.kept, seen.incomplete, seen.many_turns) == (2, 2, 1)
    assert seen.contents == ["Q", "Q\nQ"]


def test_alike_rows_are_divided_all_the_same() -> None:
    contents = [f"the reading of the meter at the main hall of house {n} is" for n in range(40)]
    shared = [f"{'word ' * 40}{n}" for n in range(40)]
    assert division(contents, 0.2).test > 0
    divided = division(
        [f"a b c d e f g h i j k l m n o p {n} q r s t u v w x y z" for n in range(40)], 0.2
    )
    assert divided.test > 0
    assert division(shared, 0.2).test > 0


@pytest.mark.parametrize(("rows", "test"), [(1, 0), (2, 1), (3, 1)])
def test_few_rows(rows: int, test: int) -> None:
    divided = division([f"{'abc'[n]} one of its own" for n in range(rows)], 0.3)
    assert divided.test == test
    assert divided.train == rows - test


def test_many_rows_are_not_compared() -> None:
    divided = division([str(n) for n in range(30_000)], 0.1)
    assert (divided.test, divided.is_exact) == (3000, False)


def test_an_own_table(tmp_path: Path) -> None:
    rows = list(look(tmp_path, own_data.tickets_csv(tmp_path)).rows)
    seen = usable(rows, choice_of(rows))
    assert (seen.kept, seen.duplicates, seen.incomplete) == (144, 0, 0)
    assert set(seen.answers) == set(own_data.KINDS)
