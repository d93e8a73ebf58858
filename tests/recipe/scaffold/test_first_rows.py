"""What is said of rows before a recipe is written."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.recipe.scaffold.first_rows import notes_of, outlook
from tests.recipe.scaffold.test_recipe_text import rows, seen

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def notes(data: list[dict[str, Any]], context: int | None = None) -> list[str]:
    return list(notes_of(seen(data), context))


def test_good_rows_need_no_note() -> None:
    assert notes(rows()) == []
    line = "142 rows to train, 56 to test; gates: accuracy >= 0.55, accuracy drop vs merged <= 0.11"
    assert outlook(seen(rows(198))) == line


def test_repeated_and_incomplete_rows() -> None:
    data = [*rows(), *rows(4), {"text": "x y", "label": None}]
    assert notes(data) == ["4 rows repeat and are dropped", "1 row lack a value and are dropped"]


def test_labels_that_are_nearly_all_and_those_that_are_rare() -> None:
    data = [row | {"label": "ok" if n > 2 else "broken"} for n, row in enumerate(rows())]
    one_sided, rare = notes(data)
    assert one_sided.startswith("95 % of the rows have one answer, ok: accuracy says little")
    assert rare == "1 of 2 answers stand in fewer than 5 rows: broken"


def test_turns() -> None:
    data = [
        {"messages": [{"role": "user", "content": f"q {n}"}, CHAT[1], *CHAT]} for n in range(20)
    ]
    (note,) = notes(data)
    assert note == (
        "in 20 of 20 conversations the assistant speaks more than once: all its turns are learnt"
    )


def test_rows_longer_than_the_model_takes() -> None:
    data = [row | {"text": row["text"] + " x" * 2000} for row in rows()]
    assert any("the model takes 512" in note for note in notes(data, 512))


def test_too_few_rows_for_a_gate() -> None:
    assert outlook(seen(rows(9))).endswith("too few for a gate (some 30 to test are a beginning)")


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        ([{"text": "a", "label": "b"}], "1 row can't be divided"),
        ([{"text": "a", "label": "b"}] * 5, "1 row can't be divided"),
        ([{"text": "a b", "label": None}, {"text": None, "label": "x"}], "none of the 2 rows has"),
    ],
)
def test_rows_that_are_too_few(data: list[dict[str, Any]], fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        seen(data)
