"""Templates over columns: optional ones, and names with marks."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.data.templates import columns_in, fill
from tests.support.rendering import render


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("{a}\n{b?}.", "B", "A\nB."),
        ("{a}\n{b?}.", None, "A\n."),
        ("{a}\n{b?Input: {}\n}.", "B", "A\nInput: B\n."),
        ("{a}\n{b?Input: {}\n}.", " ", "A\n."),
        ("{a}\n{b?see below }.", "B", "A\nsee below ."),
        ('{{"x": "{a}", "y": "{b?}"}}', "{a}", '{"x": "A", "y": "{a}"}'),
        ("{a}{b?{}}}}", "B", "AB}"),
    ],
)
def test_an_optional_column_may_be_empty(template: str, value: str | None, text: str) -> None:
    assert fill(template, {"a": "A", "b": value}) == text
    assert columns_in(template) == ["a"]


@pytest.mark.parametrize(
    ("template", "column"),
    [
        ("{why?}", "why?"),
        ("{text {{raw}}}", "text {raw}"),
        ('{{"q": {n}}}', "n"),
        ("{a?b}", "a?b"),
        ("{x{{}", "x{"),
    ],
)
def test_a_name_with_braces_or_a_question_mark_is_a_name_where_the_data_has_it(
    template: str, column: str
) -> None:
    text = fill(template, {column: "V"})
    assert text in ("V", '{"q": V}')
    assert columns_in(template, [column]) == [column]


def test_rows_with_an_empty_optional_column_are_kept() -> None:
    data: list[dict[str, Any]] = [
        {"i": "do", "x": None, "o": "1"},
        {"i": "do", "x": "it", "o": "2"},
        {"i": "go", "o": "3"},
        {"i": "", "x": "it", "o": "4"},
    ]
    rows, report = render(data, prompt="{i}{x?\n{}}", completion="{o}")
    assert [(r.values["prompt"], r.label, r.content) for r in rows] == [
        ("do", "1", "do"),
        ("do\nit", "2", "do\nit"),
        ("go", "3", "go"),
    ]
    assert report["drops"] == [
        {"why": "no value for i", "count": 1, "first": "a.jsonl:4", "fault": True}
    ]


def test_a_text_around_a_column_holds_no_other() -> None:
    with pytest.raises(InputError, match="can't hold another column"):
        render([{"i": "do", "x": "it"}], text="{x?Do {i}: {}}")


def test_a_prompt_of_optional_columns_that_are_all_empty_is_dropped() -> None:
    rows, report = render(
        [{"x": "", "o": "1"}, {"x": "it", "o": "1"}], prompt="{x?}", completion="{o}"
    )
    assert (len(rows), [d["why"] for d in report["drops"]]) == (1, ["prompt is empty"])
