"""Scaffolding for `olivebuild init`: a working recipe for a model and a data file's columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError, RecipeError, Where
from olivebuild.recipe.file import FILE_NAME

TEXT = """\
# yaml-language-server: $schema=olivebuild.recipe.schema.json
version: 1
default: onnx-int4
targets:
  base: {{kind: model, source: {model}}}
  rows:
    kind: dataset
    source: {data}
{rows}
    holdout: 0.2
  adapter:
    kind: adapter
    model: base
    data: rows.train
    r: 16
    alpha: 32
    training: {{lr: 2e-4, epochs: 3, warmup: 10, batch: 8}}
  merged: {{kind: merged, model: base, adapter: adapter}}
  onnx-int4: {{kind: onnx, model: merged, precision: int4, provider: cpu}}
  bench: {{kind: benchmark, models: [base, merged, onnx-int4], data: rows.test, strict: true}}
"""
SAMPLE_ROWS = 200
"""The number of rows by which the columns are understood."""
ASKED = (
    "instruction",
    "prompt",
    "question",
    "query",
    "input",
    "text",
    "sentence",
    "phrase",
    "utterance",
    "review",
    "message",
    "content",
    "document",
    "title",
)
ANSWERED = (
    "output",
    "response",
    "completion",
    "answer",
    "answers",
    "chosen",
    "target",
    "label_text",
    "label",
    "labels",
    "category",
    "class",
    "intent",
    "sentiment",
    "emotion",
    "tone",
    "topic",
    "summary",
    "translation",
)
OTHER = {
    "id",
    "idx",
    "index",
    "uuid",
    "guid",
    "url",
    "link",
    "date",
    "time",
    "timestamp",
    "created_at",
    "source",
    "split",
    "lang",
    "language",
    "rejected",
}


@dataclass(frozen=True)
class Columns:
    """The recipe's fields for a data file's columns, and the columns that they use or leave out."""

    fields: dict[str, str]
    used: tuple[str, ...]
    unused: tuple[str, ...]


def write_recipe(
    folder: Path, name: str | None, model: str, data: str, force: bool
) -> tuple[str, list[str]]:
    """Write a recipe, and return its name and notes for the user.

    Raises RecipeError when there is a recipe, InputError when the data can't be used.
    """
    file = folder / (name or FILE_NAME)
    if file.exists() and not force:
        raise RecipeError(
            "there is a recipe already", where=Where(file.name), hint="--force overwrites it"
        )
    rows, notes = _first_rows(folder / data, data)
    columns = understand(rows)
    if columns is None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        hint = (
            "a row needs an input and an answer, or messages; the columns are "
            f"{', '.join(map(str, names)) or 'none'}"
        )
        raise InputError(f"{data} has no two columns that ask and answer", where=data, hint=hint)
    lines = "\n".join(
        f"    {field}: {json.dumps(text, ensure_ascii=False)}"
        for field, text in columns.fields.items()
    )
    text = TEXT.format(
        model=json.dumps(model), data=json.dumps(data, ensure_ascii=False), rows=lines
    )
    file.write_text(text, "utf-8")
    left = f"; not {', '.join(columns.unused)}" if columns.unused else ""
    return file.name, [*notes, f"the columns that are used are {', '.join(columns.used)}{left}"]


def _first_rows(path: Path, shown: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the first rows, read as a build reads them, and notes on what was guessed."""
    from olivebuild.data.readers import read_file

    if not path.is_file():
        raise InputError(
            f"{shown} does not exist",
            where=shown,
            hint="--data is relative to the folder of the recipe",
        )
    notes: list[str] = []
    rows = [row.columns for row in islice(read_file(path, shown, notes.append), SAMPLE_ROWS)]
    if not rows:
        raise InputError("there are no rows", where=shown, hint="is it a data file of rows?")
    return rows, notes


def understand(rows: Sequence[dict[str, Any]]) -> Columns | None:
    """Return the fields for rows; None where no columns are an input and an answer.

    A column of conversations is taken first. Otherwise an input and an answer are chosen by their
    names, and then by their order.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if chat := _conversations(rows, names):
        used = [chat, *(n for n in ("tools", "functions") if n in names)]
        return _columns({"messages": chat}, used, names)
    texts = _text_columns(rows, names)
    lower = {name: name.strip().lower() for name in texts}
    answer = _answer_column(texts, lower)
    inputs = [name for name in texts if name != answer]
    asked = _named(inputs, lower, ASKED) or next(iter(inputs), None)
    if asked is None or answer is None:
        return None
    user, used = _slot(asked), [asked]
    for name in inputs:
        if name != asked and (lower[asked], lower[name]) in PAIRS:
            user += _optional(name)
            used.append(name)
            break
    return _columns({"user": user, "assistant": _slot(answer)}, [*used, answer], names)


def _columns(fields: dict[str, str], used: Sequence[str], names: Sequence[str]) -> Columns:
    unused = tuple(name for name in names if name not in used)
    return Columns(fields=fields, used=tuple(used), unused=unused)


def _text_columns(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the columns of texts, but for those that number, date or link the rows."""
    from olivebuild.data.values import is_missing, why_not

    texts = []
    for name in names:
        values = [value for row in rows if not is_missing(value := row.get(name))]
        if not values or any(why_not(name, value) is not None for value in values):
            continue
        if name.strip().lower() not in OTHER and not _counts(values, len(rows)):
            texts.append(name)
    return texts


def _answer_column(texts: Sequence[str], lower: dict[str, str]) -> str | None:
    """Return the column with a name for answers, or else the last without one for questions."""
    if name := _named(texts, lower, ANSWERED):
        return name
    for name in reversed(texts):
        if lower[name] not in ASKED:
            return name
    return texts[-1] if len(texts) > 1 else None


PAIRS = {
    ("instruction", "input"),
    ("instruction", "context"),
    ("question", "context"),
    ("prompt", "input"),
    ("prompt", "context"),
    ("query", "context"),
}
"""Pairs of a question's column and that of its context, which may be empty."""


def _conversations(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str | None:
    """Return the column of which most values are conversations that end with an answer."""
    from olivebuild.data.conversation import conversation

    for name in sorted(names, key=_chat_rank):
        if name.lower() == "rejected":
            continue
        values = [row.get(name) for row in rows]
        # A false value is a missing one.
        texts = [value for value in values if value and not isinstance(value, int | float)]
        chats = [conversation(value, name) for value in texts]
        answered = [c for c in chats if isinstance(c, list) and c[-1]["role"] == "assistant"]
        if len(answered) * 2 > len(chats):
            return name
    return None


CHATS = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "chosen")
"""Names of columns of conversations, the likeliest first."""


def _chat_rank(name: str) -> int:
    return CHATS.index(name.lower()) if name.lower() in CHATS else len(CHATS)


def _named(names: Sequence[str], lower: dict[str, str], wanted: Sequence[str]) -> str | None:
    return min(
        (n for n in names if lower[n] in wanted), key=lambda n: wanted.index(lower[n]), default=None
    )


def _counts(values: Sequence[Any], rows: int) -> bool:
    """Return whether a column numbers its rows: by whole numbers that differ."""
    if rows <= 2 or len({str(value).strip() for value in values}) != rows:
        return False
    return all(map(_is_whole, values))


def _is_whole(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)


def _slot(name: str) -> str:
    return "{" + name.replace("{", "{{").replace("}", "}}") + "}"


def _optional(name: str) -> str:
    return "{" + name + "?\n\n{}}" if not set("{}?") & set(name) else "\n\n" + _slot(name)
