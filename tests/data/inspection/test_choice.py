"""The input and the answer among columns, and when a person has to choose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.data.inspection.choice import Choice, Unclear, choose
from olivebuild.data.inspection.columns import describe

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
SHARE = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
ANSWER_ALONE = [{"role": "assistant", "content": "A"}]
LONG = "a sentence that goes on for quite a while, number {n}"
ROWS = 12


def table(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows: texts with {n} number them, and of a tuple each row has the next value."""

    def cell(value: Any, n: int) -> Any:
        if isinstance(value, tuple):
            return value[n % len(value)]
        return value.replace("{n}", str(n)) if isinstance(value, str) else value

    return [{name: cell(value, n) for name, value in columns.items()} for n in range(ROWS)]


def chosen(columns: dict[str, Any], **wishes: Any) -> Choice | Unclear:
    rows = table(columns)
    return choose(describe(rows), rows, **wishes)


ID = tuple(range(ROWS))
NUMBERS = tuple(n * 1.25 for n in range(ROWS))
LABELS = ("good", "bad", "good", "so-so")


@pytest.mark.parametrize(
    ("columns", "form", "inputs", "answer"),
    [
        ({"id": ID, "text": LONG, "label": (0, 1)}, "pairs", ["text"], "label"),
        ({"phrase": LONG, "tone": LABELS}, "pairs", ["phrase"], "tone"),
        ({"label": LABELS, "text": LONG}, "pairs", ["text"], "label"),
        ({"en": "t {n} a", "fr": "d {n} b"}, "pairs", ["en"], "fr"),
        ({"input": LONG, "output": "o {n} x"}, "pairs", ["input"], "output"),
        ({"a {b}": "t {n} a", "c": LABELS}, "pairs", ["a {b}"], "c"),
        (
            {"instruction": LONG, "input": ("x 1 a", "", "y 2 b"), "output": "o {n} x"},
            "instructions",
            ["instruction", "input"],
            "output",
        ),
        (
            {"context": "c {n} a", "question": "q {n} b", "answer": "a {n} c"},
            "pairs",
            ["question", "context"],
            "answer",
        ),
        (
            {"premise": LONG, "hypothesis": "h {n} a", "label": (0, 1, 2)},
            "pairs",
            ["premise", "hypothesis"],
            "label",
        ),
        (
            {"text": LONG, "label": (0, 1), "label_text": ("n", "y")},
            "pairs",
            ["text"],
            "label_text",
        ),
        ({"subject": "s {n} a", "body": LONG, "queue": LABELS}, "pairs", ["body"], "queue"),
        ({"kurz": "s {n} a", "lang_text": LONG * 3, "x": LABELS}, "pairs", ["lang_text"], "x"),
        ({"text": LONG, "price": (1.5, 2.25, 9.75, 3.5)}, "pairs", ["text"], "price"),
        ({"text": LONG, "lang": ("de", "en")}, "pairs", ["text"], "lang"),
        (
            {"prompt": LONG, "chosen": "c {n} a", "rejected": "r {n} b"},
            "preferences",
            ["prompt"],
            "chosen",
        ),
        ({"chosen": LONG, "rejected": LONG}, "text", [], "chosen"),
        ({"text": LONG}, "text", [], "text"),
        ({"id": ID, "text": LONG, "date": "2026-01-02"}, "text", [], "text"),
        ({"messages": (CHAT,)}, "conversations", [], "messages"),
        ({"id": ID, "conversations": (SHARE,)}, "conversations", [], "conversations"),
        ({"chat": json.dumps(CHAT), "tools": "[]"}, "conversations", [], "chat"),
        ({"prompt": LONG, "chosen": (CHAT,), "rejected": (CHAT,)}, "preferences", [], "chosen"),
    ],
)
def test_columns_are_taken_for_what_they_mean(
    columns: dict[str, Any], form: str, inputs: list[str], answer: str
) -> None:
    choice = chosen(columns)
    assert isinstance(choice, Choice)
    assert (choice.form, [c.name for c in choice.inputs], choice.answer.name) == (
        form,
        inputs,
        answer,
    )


@pytest.mark.parametrize(
    ("columns", "role", "names"),
    [
        (
            {"body": LONG, "category": LABELS, "priority": ("high", "low")},
            "answer",
            ["category", "priority"],
        ),
        (
            {"body": LONG, "urgent": (True, False, False), "type": LABELS},
            "answer",
            ["urgent", "type"],
        ),
        ({"text": LONG, "label": LABELS, "summary": "s {n} b"}, "answer", ["label", "summary"]),
        (
            {"one": "a {n} x", "two": "b {n} y", "three": "c {n} z"},
            "answer",
            ["one", "two", "three"],
        ),
        ({"note": LONG, "remark": LONG, "kind": LABELS}, "input", ["note", "remark"]),
        ({"a": NUMBERS, "b": NUMBERS[::-1], "kind": LABELS}, "input", ["a", "b"]),
    ],
)
def test_what_may_be_two_things_is_not_guessed(
    columns: dict[str, Any], role: str, names: list[str]
) -> None:
    unclear = chosen(columns)
    assert isinstance(unclear, Unclear)
    assert (unclear.role, [c.name for c in unclear.candidates]) == (role, names)


def test_a_person_decides() -> None:
    columns = {"body": LONG, "category": LABELS, "priority": ("high", "low"), "note": LONG}
    choice = chosen(columns, answer="priority")
    assert isinstance(choice, Choice)
    assert [c.name for c in choice.inputs] == ["body"]
    choice = chosen(columns, answer="category", inputs=("note", "body"))
    assert isinstance(choice, Choice)
    assert choice.used == ("note", "body", "category")
    assert isinstance(chosen(columns, inputs=("body",)), Unclear)


def test_a_part_of_several_inputs_may_be_empty() -> None:
    columns = {"subject": ("s 1 a", ""), "body": LONG, "kind": LABELS}
    choice = chosen(columns, inputs=("subject", "body"))
    assert isinstance(choice, Choice)
    assert choice.optional == {"subject"}


@pytest.mark.parametrize(
    ("columns", "wishes", "fact", "hint"),
    [
        (
            {"text": LONG, "labels": (["a"], ["a", "b"])},
            {},
            "labels: the column holds lists",
            "as text",
        ),
        ({"question": LONG, "answers": ({"text": ["a"]},)}, {}, "objects, and no text", "as text"),
        (
            {"text": LONG, "label": LABELS},
            {"answer": "lable"},
            "no such column",
            "did you mean label?",
        ),
        (
            {"text": LONG, "label": LABELS},
            {"inputs": ("txt",)},
            "--input txt",
            "did you mean text?",
        ),
        ({"id": ID, "day": "2026-01-02"}, {}, "no two columns that ask and answer", "id: numbers"),
        (
            {"prompt": (CHAT[:1],), "chosen": (ANSWER_ALONE,), "rejected": (ANSWER_ALONE,)},
            {},
            "chosen has the answers alone",
            "one list `messages`",
        ),
    ],
)
def test_what_can_be_neither_is_an_error(
    columns: dict[str, Any], wishes: dict[str, Any], fact: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        chosen(columns, **wishes)
    assert fact in caught.value.fact
    assert hint in caught.value.hint


def test_preferences_say_what_is_not_used() -> None:
    choice = chosen({"prompt": LONG, "chosen": "c {n} a", "rejected": "r {n} b"})
    assert isinstance(choice, Choice)
    assert "DPO" in choice.why
    assert "rejected ones are not used" in choice.why
