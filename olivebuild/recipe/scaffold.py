"""`olivebuild init`: a working recipe for a model and a data file, by what its columns mean."""

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
  bench: {{kind: benchmark, models: [base, merged, onnx-int4], data: rows.test}}
"""
LOOKED_AT = 200
"""Rows by which the columns are understood."""
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
    *(
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
    ),
    *("sentiment", "emotion", "tone", "topic", "summary", "translation"),
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
    """What the columns of a data file are taken for: the fields of the recipe, and which columns
    stay out.
    """

    fields: dict[str, str]
    used: tuple[str, ...]
    unused: tuple[str, ...]


def write_recipe(
    folder: Path, name: str | None, model: str, data: str, force: bool
) -> tuple[str, list[str]]:
    """Write the recipe; its name, and what to tell.

    Raises RecipeError when one is there, InputError when the data can't be used.
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
    """The first rows, read as a build reads them, and what was guessed."""
    from olivebuild.data.readers import read_file

    if not path.is_file():
        raise InputError(
            f"{shown} does not exist",
            where=shown,
            hint="--data is relative to the folder of the recipe",
        )
    notes: list[str] = []
    rows = [row.columns for row in islice(read_file(path, shown, notes.append), LOOKED_AT)]
    if not rows:
        raise InputError("there are no rows", where=shown, hint="is it a data file of rows?")
    return rows, notes


def understand(rows: Sequence[dict[str, Any]]) -> Columns | None:
    """Conversations where a column has some; else an input and an answer, by their names, then by
    where they stand.
    """
    from olivebuild.data.values import is_missing, why_not

    names = list(dict.fromkeys(name for row in rows for name in row))
    if chat := _conversations(rows, names):
        used = [chat, *(n for n in ("tools", "functions") if n in names)]
        return Columns({"messages": chat}, tuple(used), tuple(n for n in names if n not in used))
    values = {n: [v for row in rows if not is_missing(v := row.get(n))] for n in names}
    texts = [n for n in names if values[n] and all(why_not(n, v) is None for v in values[n])]
    lower = {n: n.strip().lower() for n in texts}
    plain = [n for n in texts if lower[n] not in OTHER and not _counts(values[n], len(rows))]
    answer = _named(plain, lower, ANSWERED) or next(
        (n for n in reversed(plain) if lower[n] not in ASKED), plain[-1] if len(plain) > 1 else None
    )
    asking = [n for n in plain if n != answer]
    asked = _named(asking, lower, ASKED) or next(iter(asking), None)
    if asked is None or answer is None:
        return None
    more = next((n for n in asking if n != asked and (lower[asked], lower[n]) in PAIRS), None)
    user, used = _slot(asked), [asked]
    if more is not None:
        user, used = user + _optional(more), [*used, more]
    used.append(answer)
    return Columns(
        {"user": user, "assistant": _slot(answer)},
        tuple(used),
        tuple(n for n in names if n not in used),
    )


PAIRS = {
    ("instruction", "input"),
    ("instruction", "context"),
    ("question", "context"),
    ("prompt", "input"),
    ("prompt", "context"),
    ("query", "context"),
}
"""What is asked, and what it is asked about, which may be empty."""


def _conversations(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str | None:
    """The column that holds conversations which end with an answer."""
    from olivebuild.data.conversation import conversation

    known = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "chosen")
    for name in sorted(
        (n for n in names if n.lower() != "rejected"),
        key=lambda n: known.index(n.lower()) if n.lower() in known else len(known),
    ):
        found = [
            conversation(value, name)
            for row in rows
            if (value := row.get(name)) and not isinstance(value, int | float)
        ]
        if found and sum(
            isinstance(m, list) and m[-1]["role"] == "assistant" for m in found
        ) * 2 > len(found):
            return name
    return None


def _named(names: Sequence[str], lower: dict[str, str], wanted: Sequence[str]) -> str | None:
    return min(
        (n for n in names if lower[n] in wanted), key=lambda n: wanted.index(lower[n]), default=None
    )


def _counts(values: Sequence[Any], rows: int) -> bool:
    """Whether a column numbers its rows: whole numbers, each another one."""
    whole = all(
        (isinstance(v, int) and not isinstance(v, bool))
        or (isinstance(v, str) and v.strip().isdecimal())
        for v in values
    )
    return whole and rows > 2 and len({str(v).strip() for v in values}) == rows


def _slot(name: str) -> str:
    return "{" + name.replace("{", "{{").replace("}", "}}") + "}"


def _optional(name: str) -> str:
    return "{" + name + "?\n\n{}}" if not set("{}?") & set(name) else "\n\n" + _slot(name)
