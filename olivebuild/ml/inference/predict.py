"""Rows in, answers out: how a row becomes a prompt, and what the model writes to each.

Knows nothing of where the answers go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

from olivebuild.core.errors import InputError
from olivebuild.data.conversation import conversation_of, tools_of
from olivebuild.data.readers import Read, read_file
from olivebuild.data.templates import columns_in, fill, slots
from olivebuild.data.values import DATES, is_missing, text_of, tidied, why_not
from olivebuild.ml.data.tokens import Encoder
from olivebuild.ml.inference.questions import Question
from olivebuild.ml.inference.runtime import Runtime


@dataclass(frozen=True)
class Form:
    """Form in which a row becomes a prompt: a data set's template without its answer.

    `format` is prompt, user or messages; `answer` is the answer's template, "" where there is none.
    """

    name: str
    format: str
    text: str
    answer: str = ""

    @property
    def columns(self) -> list[str]:
        return [self.text] if self.format == "messages" else columns_in(self.text)

    def prompt(self, row: Mapping[str, Any], encoder: Encoder) -> list[int]:
        """A row's tokens. Raises InputError when the chat template refuses it."""
        if self.format == "prompt":
            return encoder.ask("prompt", {"prompt": fill(self.text, dict(row))})
        if self.format == "user":
            return encoder.ask("user", {"user": fill(self.text, dict(row)), "assistant": ""})
        messages = conversation_of(row, self.text)
        assert isinstance(messages, list)
        return from_messages(
            messages[:-1] if messages[-1]["role"] == "assistant" else messages,
            encoder,
            tools_of(row),
        )

    def answered(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a row with its answer, as an encoder takes it; None for a row without one."""
        if self.format == "messages":
            messages = conversation_of(row, self.text)
            if isinstance(messages, str) or messages[-1]["role"] != "assistant":
                return None
            return {"messages": messages, "tools": tools_of(row)}
        needed = [slot.column for slot in slots(self.answer, row) if not slot.optional]
        if not needed or any(is_missing(row.get(name)) for name in needed):
            return None
        names = ("prompt", "completion") if self.format == "prompt" else ("user", "assistant")
        texts = (fill(self.text, dict(row)), fill(self.answer, dict(row)))
        return dict(zip(names, texts, strict=True))

    def filled(self, text: str, encoder: Encoder) -> list[int]:
        """The prompt when `text` is the value of the only column."""
        return self.prompt(dict.fromkeys(self.columns, text), encoder)

    def fits(self, columns: set[str]) -> bool:
        """Return whether rows with these columns can be asked.

        They have all that it needs, or some of those that may be missing.
        """
        if self.format == "messages":
            return self.text in columns
        template_slots = slots(self.text, columns)
        needed = {slot.column for slot in template_slots if not slot.optional}
        return columns >= needed and (
            bool(needed)
            or not template_slots
            or any(slot.column in columns for slot in template_slots)
        )

    def check(self, row: Read) -> None:
        """Raises InputError with the row's place when a column has no value that can be used."""
        if self.format == "messages":
            turns = (
                conversation_of(row.columns, self.text)
                if row.columns.get(self.text)
                else f"no value for {self.text}"
            )
            why = (
                turns
                if isinstance(turns, str)
                else "the tools are not a list of objects"
                if tools_of(row.columns) is None
                else None
            )
        else:
            parts = slots(self.text, row.columns)
            values = [(slot.column, row.columns.get(slot.column), slot.optional) for slot in parts]
            why = next(
                (
                    fault
                    for name, value, free in values
                    if not (free and is_missing(value)) and (fault := why_not(name, value))
                ),
                None,
            )
            if not why and parts and not fill(self.text, row.columns).strip():
                why = "the prompt is empty"
        if why:
            raise InputError(why, where=row.where, hint="mend the row or leave it out")


BATCH = 8
"""Rows that are asked at once."""
PLAIN = (Form("", "prompt", "{prompt}"), Form("", "messages", "messages"))


def from_messages(messages: list[dict[str, Any]], encoder: Encoder, tools: Any = None) -> list[int]:
    # The answer that is to come stands last.
    return encoder.ask(
        "messages", {"messages": [*messages, {"role": "assistant", "content": ""}], "tools": tools}
    )


def read_rows(path: Path, shown: str, forms: Sequence[Form]) -> tuple[list[Read], Form]:
    """All rows, and the first form whose columns they have. Raises InputError."""
    rows = list(read_file(path, shown))
    if not rows:
        raise InputError(
            "there are no rows",
            where=shown,
            hint="a row is a JSON object with the columns of a data set, or a prompt",
        )
    columns = {name for row in rows for name in row.columns}
    if "prediction" in columns:
        raise InputError(
            "the rows have a column named prediction already",
            where=shown,
            hint="rename it: the answers go there",
        )
    form = next((f for f in (*forms, *PLAIN) if f.fits(columns)), None)
    if form is None:
        wanted = [f"{', '.join(f.columns)} (as {f.name})" for f in forms]
        hint = f"they need {'; or '.join([*wanted, 'prompt', 'messages'])}"
        raise InputError(
            f"the rows have the columns {', '.join(sorted(columns))}", where=shown, hint=hint
        )
    for row in rows:
        form.check(row)
    rows, _ = tidied(
        rows,
        [slot.column for slot in slots(form.text, columns)] if form.format != "messages" else [],
    )
    # What is written beside the answers is JSON, which knows no dates and no decimals.
    return [
        Read(
            {
                k: text_of(v) if isinstance(v, (Decimal, *DATES)) else v
                for k, v in row.columns.items()
            },
            row.where,
        )
        for row in rows
    ], form


def prompts_of(rows: Sequence[Read], form: Form, encoder: Encoder) -> list[list[int]]:
    prompts = []
    for row in rows:
        encoder.where = row.where
        prompts.append(form.prompt(row.columns, encoder))
    return prompts


def expected_of(rows: Sequence[Read], form: Form, encoder: Encoder) -> list[str | None]:
    """Return the answer of each row as its reader would have it; None for a row without one.

    As a benchmark compares: up to the token that ends it. Empty where no row has one.
    """
    pairs = [form.answered(row.columns) for row in rows]
    if not any(pairs):
        return []
    encoder.read_ends(form.format, [pair["completion"] for pair in pairs if _is_text(pair)])
    answers = []
    for pair, row in zip(pairs, rows, strict=True):
        encoder.where = row.where
        answers.append(
            encoder.answer_text(encoder.encode(form.format, pair).completion, encoder.stops)
            if pair
            else None
        )
    return answers


def _is_text(pair: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    return pair is not None and "completion" in pair


def answers(
    runtime: Runtime,
    encoder: Encoder,
    rows: Sequence[Read],
    prompts: Sequence[list[int]],
    rooms: Sequence[int],
    first: int,
) -> Iterator[tuple[Read, str]]:
    """Yield each row from number `first` on with its answer, in order.

    `rooms` are the tokens that each may have.
    """
    # Batches begin where they always do, so that going on later gives what one run would have
    # given.
    for i in range(first - first % BATCH, len(rows), BATCH):
        questions = [Question(prompt=prompt, completions=[]) for prompt in prompts[i : i + BATCH]]
        replies = runtime.ask(questions, max(rooms[i : i + BATCH]), encoder.ends)
        for k, reply in enumerate(replies, i):
            if k >= first:
                yield rows[k], encoder.answer_text(reply.written[: rooms[k]])
