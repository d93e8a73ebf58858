"""What `init` takes columns for, and that a build reads what it wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olivebuild.recipe.scaffold import understand
from tests.conftest import Place

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
SHARE = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"messages": CHAT}, {"messages": "messages"}),
        ({"id": "a", "conversations": SHARE}, {"messages": "conversations"}),
        ({"chat": json.dumps(CHAT), "tools": "[]"}, {"messages": "chat"}),
        ({"prompt": "p", "chosen": CHAT, "rejected": CHAT}, {"messages": "chosen"}),
        (
            {"prompt": "p", "chosen": "c", "rejected": "r"},
            {"user": "{prompt}", "assistant": "{chosen}"},
        ),
        (
            {"output": "o", "instruction": "i", "input": "x"},
            {"user": "{instruction}{input?\n\n{}}", "assistant": "{output}"},
        ),
        (
            {"context": "c", "question": "q", "answer": "a"},
            {"user": "{question}{context?\n\n{}}", "assistant": "{answer}"},
        ),
        ({"id": 7, "text": "t", "label": 1}, {"user": "{text}", "assistant": "{label}"}),
        ({"label": "joy", "text": "t"}, {"user": "{text}", "assistant": "{label}"}),
        ({"phrase": "t", "tone": "joy"}, {"user": "{phrase}", "assistant": "{tone}"}),
        ({"a {b}": "t", "c": "d"}, {"user": "{a {{b}}}", "assistant": "{c}"}),
        ({"en": "t", "fr": "d"}, {"user": "{en}", "assistant": "{fr}"}),
    ],
)
def test_columns_are_taken_for_what_they_mean(row: dict[str, Any], fields: dict[str, str]) -> None:
    rows = [row | ({"id": n} if "id" in row else {}) for n in range(5)]
    found = understand(rows)
    assert found
    assert found.fields == fields
    assert {*found.used, *found.unused} == set(row)


@pytest.mark.parametrize("row", [{"text": "t"}, {"id": 1, "text": "t"}, {"a": [1], "b": {"c": 1}}])
def test_one_column_is_not_enough(row: dict[str, Any]) -> None:
    assert understand([row | ({"id": n} if "id" in row else {}) for n in range(5)]) is None


def test_a_column_counts_that_the_first_row_does_not_have() -> None:
    found = understand(
        [{"text": "t0"}, {"text": "t1", "label": None}, {"text": "t2", "label": "a"}]
    )
    assert found
    assert found.fields == {"user": "{text}", "assistant": "{label}"}


def test_init_says_what_it_took_and_a_build_reads_it(place: Place) -> None:
    rows = [
        {
            "id": n,
            "instruction": f"do {n} x{n * 7}",
            "input": "" if n % 2 else f"it {n}",
            "output": "yes",
        }
        for n in range(30)
    ]
    (place.folder / "rows.json").write_text(json.dumps({"data": rows}))
    done = place.run("init", "--model", "tiny", "--data", "rows.json")
    assert done.code == 0, done.err
    assert "note: the columns that are used are instruction, input, output; not id" in done.out
    done = place.build("rows")
    assert done.ran == ["rows"], done.err
    assert "30 rows read" in done.out
