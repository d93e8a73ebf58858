"""Rows of a data set rendered: what is filled in, dropped and told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olivebuild.core.errors import InputError
from olivebuild.data.templates import columns_in, fill
from olivebuild.ml.data.rows import Row
from tests.support.rendering import render


@pytest.mark.parametrize(
    ("template", "columns", "text"),
    [
        ("{a}", ["a"], "A"),
        ("<{a}|{b}>", ["a", "b"], "<A|B>"),
        ("{two words}", ["two words"], "2W"),
        ("{{a}}", [], "{a}"),
        ("{{{a}}}", ["a"], "{A}"),
        ('{{"x": "{a}"}}', ["a"], '{"x": "A"}'),
        ("{{{{", [], "{{"),
        ("no slot", [], "no slot"),
        ("{a.b}", ["a.b"], "dot"),
        ("{a!r}{a:>9}{a[0]}", ["a!r", "a:>9", "a[0]"], "bang form index"),
        ("{n}{t}", ["n", "t"], "1.5true"),
    ],
)
def test_substitution_and_nothing_else(template: str, columns: list[str], text: str) -> None:
    row = {
        "a": "A",
        "b": "B",
        "two words": "2W",
        "a.b": "dot",
        "a!r": "bang ",
        "a:>9": "form ",
        "a[0]": "index",
        "n": 1.5,
        "t": True,
    }
    assert (columns_in(template), fill(template, row)) == (columns, text)


@given(st.text(max_size=20))
def test_values_are_not_looked_at_again(value: str) -> None:
    assert fill("<{a}>", {"a": value}) == f"<{value}>"


@given(st.text(max_size=20))
def test_doubled_braces_stand_for_themselves(text: str) -> None:
    assert fill(text.replace("{", "{{").replace("}", "}}"), {}) == text


def test_a_row_is_rendered_with_its_label_and_what_it_is_compared_by() -> None:
    rows, report = render(
        [{"q": "Hi?", "topic": "greeting", "a": "Hello"}],
        prompt="<u>{q}\n{topic}<a>",
        completion="{a}</s>",
    )
    assert rows == [
        Row({"prompt": "<u>Hi?\ngreeting<a>", "completion": "Hello</s>"}, "Hello", "Hi?\ngreeting")
    ]
    assert report == {
        "read": 1,
        "duplicates": 0,
        "dropped": 0,
        "dropped_rows": [],
        "drops": [],
        "same_input_other_label": [],
    }


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"completion": "{b}"}, "B"),
        ({"completion": "{b}, that is {b}"}, "B"),
        ({"completion": "{b}{c}"}, ""),
        ({"completion": "fixed"}, ""),
        ({"completion": "{b}{c}", "label": "c"}, "C"),
    ],
)
def test_the_label_is_the_only_column_of_the_completion_or_the_one_named(
    fields: dict[str, Any], label: str
) -> None:
    rows, _ = render([{"a": "A", "b": "B", "c": "C"}], prompt="{a}", **fields)
    assert [r.label for r in rows] == [label]


def test_rows_without_a_value_are_dropped_and_reported() -> None:
    data: list[dict[str, Any]] = [
        {"a": "x", "b": "1"},
        {"a": None, "b": "1"},
        {"a": " ", "b": "1"},
        {"b": "1"},
        {"a": ["x"], "b": "1"},
        {"a": 0, "b": False},
    ]
    rows, report = render(data, prompt="{a}", completion="{b}")
    assert [r.values for r in rows] == [
        {"prompt": "x", "completion": "1"},
        {"prompt": "0", "completion": "false"},
    ]
    assert (report["read"], report["dropped"]) == (6, 4)
    assert report["dropped_rows"] == [
        {"where": "a.jsonl:2", "why": "no value for a"},
        {"where": "a.jsonl:3", "why": "no value for a"},
        {"where": "a.jsonl:4", "why": "no value for a"},
        {"where": "a.jsonl:5", "why": "a is not text but a list"},
    ]


def test_a_row_without_a_label_is_dropped() -> None:
    rows, report = render([{"a": "x", "l": None}], text="{a}", label="l")
    assert (rows, report["dropped_rows"]) == ([], [{"where": "a.jsonl:1", "why": "no value for l"}])


def test_duplicates_are_dropped_and_counted() -> None:
    data: list[dict[str, Any]] = [
        {"a": "x", "b": "1"},
        {"a": "x", "b": "1", "other": 5},
        {"a": "y", "b": "1"},
    ]
    rows, report = render(data, prompt="{a}", completion="{b}")
    assert ([r.content for r in rows], report["duplicates"]) == (["x", "y"], 1)
    rows, report = render(data, dedupe=False, prompt="{a}", completion="{b}")
    assert ([r.content for r in rows], report["duplicates"]) == (["x", "x", "y"], 0)


def test_the_same_input_with_another_label_is_reported() -> None:
    rows, report = render(
        [{"a": "x", "b": "1"}, {"a": "x", "b": "2"}, {"a": "y", "b": "1"}],
        prompt="{a}",
        completion="{b}",
    )
    assert (len(rows), report["same_input_other_label"]) == (3, ["x"])


@pytest.mark.parametrize(
    ("fields", "where", "column"),
    [
        ({"text": "{c}"}, "olivebuild.yaml:2:42", "c"),
        ({"text": "{}"}, "olivebuild.yaml:2:42", ""),
        ({"text": '{"a": 1}'}, "olivebuild.yaml:2:42", '"a": 1'),
        ({"prompt": "{a}", "completion": "{B}"}, "olivebuild.yaml:2:3", "B"),
        ({"messages": "chat"}, "olivebuild.yaml:2:3", "chat"),
        ({"text": "{a}", "label": "tone"}, "olivebuild.yaml:2:3", "tone"),
    ],
)
def test_a_column_that_no_row_has_is_told(fields: dict[str, Any], where: str, column: str) -> None:
    with pytest.raises(InputError) as caught:
        render([{"a": "x"}, {"b c": "y"}], **fields)
    error = caught.value
    assert (str(error.where), error.fact) == (where, f"the data has no column {column!r}")
    assert error.hint == "the columns are a, b c; a literal brace is written {{ or }}"


def message(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content, "extra": 1}


def test_messages_are_kept_without_what_is_not_theirs() -> None:
    chat = [message("system", "S"), message("user", "é?"), message("assistant", "A")]
    rows, _ = render([{"chat": chat, "l": "x"}], messages="chat", label="l")
    kept = (
        '[{"role": "system", "content": "S"}, {"role": "user", "content": "é?"}, {"role": '
        '"assistant", "content": "A"}]'
    )
    assert rows == [Row({"messages": kept}, "x", "S\né?")]


@pytest.mark.parametrize(
    ("chat", "why"),
    [
        (None, "chat is not a list of messages"),
        ([], "chat is not a list of messages"),
        ("text", "chat is not a list of messages"),
        ([message("user", "Q")], "the last message is not the assistant's"),
        (
            [message("narrator", "Q")],
            "the role of a message is 'narrator', none of system, user, assistant, tool",
        ),
        (
            [message("user", None)],
            "a message needs a role (system, user, assistant, tool) and a text as content",
        ),
        (["hello"], "a message needs a role (system, user, assistant, tool) and a text as content"),
    ],
)
def test_messages_that_can_not_be_trained_on_are_dropped(chat: object, why: str) -> None:
    rows, report = render([{"chat": chat}], messages="chat")
    assert (rows, report["dropped_rows"]) == ([], [{"where": "a.jsonl:1", "why": why}])


@pytest.mark.parametrize("value", [None, "", " "])
def test_messages_without_a_label_are_dropped(value: object) -> None:
    chat = [message("user", "Q"), message("assistant", "A")]
    rows, report = render([{"chat": chat, "l": value}], messages="chat", label="l")
    assert (rows, report["dropped_rows"]) == ([], [{"where": "a.jsonl:1", "why": "no value for l"}])
