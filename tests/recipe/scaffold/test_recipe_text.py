"""The text of a new recipe: templates, quoting, holdout, lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.data.inspection.choice import Choice, choose
from olivebuild.data.inspection.columns import describe
from olivebuild.data.inspection.sources import Look
from olivebuild.data.templates import fill
from olivebuild.recipe import document
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.scaffold.first_rows import seen_of
from olivebuild.recipe.scaffold.recipe_text import (
    Seen,
    holdout_for,
    quoted,
    recipe_text,
    templates,
)

LABELS = ("good", "bad", "so-so")


def choice_of(rows: list[dict[str, Any]], inputs: tuple[str, ...] = ()) -> Choice:
    choice = choose(describe(rows), rows, inputs)
    assert isinstance(choice, Choice)
    return choice


def seen(rows: list[dict[str, Any]], inputs: tuple[str, ...] = (), **more: Any) -> Seen:
    look = Look(files=("rows.jsonl",), rows=rows, is_whole=True, **more)
    choice = choice_of(rows, inputs)
    return seen_of("rows.jsonl", is_remote=False, subset=None, look=look, choice=choice)


def rows(count: int = 60, text: str = "text", label: str = "label") -> list[dict[str, Any]]:
    words = ["river", "stone", "garden", "window", "letter", "engine", "winter"]
    return [
        {text: f"{words[n % 7]} {words[n // 7 % 7]} {n}", label: LABELS[n % 3]}
        for n in range(count)
    ]


def target(text: str, name: str) -> dict[str, Any]:
    value: Any = document.parse(text, FILE_NAME).value
    return dict(value["targets"][name])


def recipe(seen: Seen, *, chat: bool = True, context: int | None = None) -> str:
    return recipe_text(seen, model="tiny", chat=chat, context=context)


def test_labels_are_named_in_the_prompt() -> None:
    fields = templates(choice_of(rows(label="tone")), chat=True)
    assert fields["user"] == "Which tone does this text have: bad, good or so-so?\n\n{text}"
    assert fields["assistant"] == "{tone}"


def test_without_a_chat_template_prompts_are_plain() -> None:
    fields = templates(choice_of(rows()), chat=False)
    assert fields["prompt"].endswith("{text}\n\nAnswer:")
    assert fields["completion"] == " {label}"


@pytest.mark.parametrize("name", ["a {b}", "is it?", "{x?}", "tab\there", 'quote "q"', "Ö"])
def test_any_name_of_a_column_is_read_back(tmp_path: Path, name: str) -> None:
    text = recipe(seen(rows(text=name)))
    (tmp_path / FILE_NAME).write_text(text, "utf-8")
    load(tmp_path / FILE_NAME)
    user = target(text, "rows")["user"]
    assert fill(user, {name: "VALUE", "label": "good"}).endswith("\n\nVALUE")


def test_labels_with_braces_are_text() -> None:
    data = [row | {"label": "{" + row["label"] + "}"} for row in rows()]
    user = templates(choice_of(data), chat=True)["user"]
    assert "{good}" in fill(user, data[0])


def test_one_of_several_inputs_may_be_empty() -> None:
    data = [row | {"title": "" if n % 2 else f"T{n}"} for n, row in enumerate(rows())]
    user = templates(choice_of(data, ("title", "text")), chat=True)["user"]
    assert fill(user, {"title": "", "text": "body"}).endswith("?\n\nbody")
    assert fill(user, {"title": "head", "text": "body"}).endswith("?\n\nhead\n\nbody")
    user = templates(choice_of(data, ("text", "title")), chat=True)["user"]
    assert fill(user, {"title": None, "text": "body"}).endswith("?\n\nbody")
    assert fill(user, {"title": "tail", "text": "body"}).endswith("?\n\nbody\n\ntail")


def test_numbers_stand_with_their_names() -> None:
    data = [{"width": n * 1.5, "length": n * 2.5, "kind": LABELS[n % 3]} for n in range(60)]
    user = templates(choice_of(data, ("width", "length")), chat=True)["user"]
    assert fill(user, {"width": 1.5, "length": 2}).endswith("width: 1.5\nlength: 2")


@pytest.mark.parametrize(
    "text",
    ["plain", 'a "b" \\c', "line\nline", "\x1b[31m", "\u2028", "\U000e0001", "emoji 😀", "\x85"],
)
def test_text_comes_back_from_yaml(text: str) -> None:
    line = quoted(text)
    assert line.isprintable()
    assert document.parse(f"a: {line}\n", "r").value == {"a": text}


def test_what_comes_from_files_ends_no_comment() -> None:
    data = [{"text": row["text"], "a\nb: c": row["label"]} for row in rows()]
    text = recipe(seen(data))
    value: Any = document.parse(text, "r").value
    assert set(value["targets"]) == {
        "base", "rows", "adapter", "merged", "onnx-int4", "bench",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "share"), [(3, 0.3), (199, 0.3), (200, 0.2), (2000, 0.2), (8000, 0.05), (10**6, 0.01)]
)
def test_of_many_rows_a_smaller_share_is_held_out(count: int, share: float) -> None:
    assert holdout_for(count) == share


def test_incomplete_rows_may_go_and_it_is_said() -> None:
    data = [row | {"label": None} if n % 5 == 0 else row for n, row in enumerate(rows())]
    text = recipe(seen(data))
    assert target(text, "rows")["max_dropped"] == 0.2
    assert "12 of 60 rows (20 %) lack a value" in text


def test_answers_get_as_many_tokens_as_the_longest_needs() -> None:
    assert target(recipe(seen(rows())), "bench")["max_new_tokens"] == 8
    long = [row | {"label": f"{'an answer ' * 50}{n}"} for n, row in enumerate(rows())]
    text = recipe(seen(long))
    assert target(text, "bench")["max_new_tokens"] == 64
    assert "what is written is cut" in text


@pytest.mark.parametrize(
    ("length", "context", "expected"),
    [(1, None, None), (1, 512, 512), (1, 8192, None), (4000, 8192, 2048), (40_000, 8192, 4096)],
)
def test_sequences_are_as_long_as_rows_and_model(
    length: int, context: int | None, expected: int | None
) -> None:
    data = [row | {"text": f"{row['text']} {'x' * length}"} for row in rows()]
    training = target(recipe(seen(data), context=context), "adapter")["training"]
    assert training.get("max_length") == expected


@pytest.mark.parametrize(("count", "epochs"), [(60, 3), (1000, 2), (4000, 1)])
def test_more_rows_are_passed_over_less_often(count: int, epochs: int) -> None:
    training = target(recipe(seen(rows(count))), "adapter")["training"]
    assert training["epochs"] == epochs
    assert training["warmup"] <= 10


def test_conversations_with_few_answers_are_judged_by_what_is_written() -> None:
    def chat(answer: str, n: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": answer}]

    few = seen([{"messages": chat(LABELS[n % 3], n)} for n in range(200)])
    assert target(recipe(few), "bench")["gates"][0] == "generated_accuracy >= 0.6"
    assert "baseline" not in target(recipe(few), "bench")
    many = seen([{"messages": chat(f"answer {n}", n)} for n in range(200)])
    assert target(recipe(many), "bench")["gates"] == ["perplexity drop vs base <= 0"]


def test_a_split_of_its_own_is_not_divided_anew() -> None:
    both = seen(
        rows(), tests=("test.jsonl",), test_rows=rows(40)[20:], test_split="test", split="train"
    )
    data = target(recipe(both), "rows")
    assert "holdout" not in data
    assert data["test"] == ["rows.jsonl/test.jsonl"]
