"""The columns that are the input and the answer, by what they hold and how they are called.

What can be understood in two ways is not decided here: then there are candidates, and a person
chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from olivebuild.core.errors import InputError
from olivebuild.core.text import did_you_mean
from olivebuild.data.conversation import conversation
from olivebuild.data.inspection.about import about
from olivebuild.data.inspection.columns import NOT_TEXT, Column
from olivebuild.data.inspection.names import (
    ANSWERED,
    ASKED,
    CATEGORIES,
    CHATS,
    CONTEXTS,
    OTHER,
    TOOLS,
    TWINS,
    lower,
    rank,
)
from olivebuild.data.templates import names_with_marks
from olivebuild.data.values import is_missing

Form = Literal["conversations", "preferences", "instructions", "pairs", "text"]
Rows = Sequence[Mapping[str, Any]]
MOSTLY = 0.5
"""A column that is filled less is taken by its name alone."""
CLEARLY = 2.0
"""A text is the longest where it is so many times as long as the next one, on average."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The columns that a data set uses.

    `answer` is the column that is learnt: of `conversations` and `text` it is all that is read.
    """

    form: Form
    answer: Column
    inputs: tuple[Column, ...] = ()
    optional: frozenset[str] = frozenset()
    """Inputs that may be empty."""
    with_it: tuple[str, ...] = ()
    """Columns that are read beside a conversation."""
    why: str = ""
    """What was understood, beside the columns."""

    @property
    def used(self) -> tuple[str, ...]:
        """The names of all columns that are read."""
        return (*(c.name for c in self.inputs), self.answer.name, *self.with_it)

    @property
    def is_chat(self) -> bool:
        """Whether rows are conversations as they are."""
        return self.answer.content == "conversation"


@dataclass(frozen=True, kw_only=True)
class Unclear:
    """Columns of which each may be the input, or the answer."""

    role: Literal["input", "answer"]
    candidates: tuple[Column, ...]


def choose(
    columns: Sequence[Column], rows: Rows, inputs: Sequence[str] = (), answer: str | None = None
) -> Choice | Unclear:
    """Return the columns to use, or those between which a person has to choose.

    `inputs` and `answer` are the names that a person has chosen already. Raises InputError where
    no column can be one of the two.
    """
    chosen = [_named(columns, name, "--input") for name in inputs]
    target = _named(columns, answer, "--answer") if answer is not None else None
    if target is None and not chosen:
        of_form = _conversations(columns, rows) or _preferences(columns)
        if of_form:
            return of_form
    if target and target.content == "conversation" and not chosen:
        return _chat(target, columns)
    for column, flag in [
        *((c, "--input") for c in chosen),
        *([(target, "--answer")] if target else []),
    ]:
        _check_text(column, flag)
    rest = [c for c in columns if c not in chosen]
    learnt = target or _answer(rest, rows, alone=not chosen)
    if isinstance(learnt, Unclear):
        return learnt
    if learnt is None:
        return _plain_text(columns, rest)
    if chosen:
        return _pair(tuple(chosen), learnt)
    return _with_inputs([c for c in columns if c is not learnt], learnt, columns)


def _named(columns: Sequence[Column], name: str, flag: str) -> Column:
    for column in columns:
        if column.name == name:
            return column
    names = [c.name for c in columns]
    raise InputError(f"{flag} {name}: the data has no such column", hint=did_you_mean(name, names))


def _check_text(column: Column, flag: str = "") -> None:
    """Raise InputError for a column that can't be written as text; `flag`: who wants it to be."""
    if column.content in (*NOT_TEXT, "empty"):
        raise InputError(
            f"{flag} {column.name}: the column holds {about(column)}, and no text".lstrip(),
            hint="name another (--input, --answer), or write its values as text into the file, "
            "such as `red, blue`",
        )


# -- forms with names of their own


def _chat(column: Column, columns: Sequence[Column], why: str = "") -> Choice:
    names = [c.name for c in columns]
    beside = [n for n in (*TOOLS, "system") if n in names and n != column.name]
    form: Form = "preferences" if why else "conversations"
    return Choice(form=form, answer=column, with_it=tuple(beside), why=why)


def _conversations(columns: Sequence[Column], rows: Rows) -> Choice | None:
    chats = [c for c in columns if c.content == "conversation" and lower(c.name) not in OTHER]
    if not chats:
        return None
    first = min(chats, key=lambda c: rank(c.name, CHATS))
    has_other = any(lower(c.name).startswith("rejected") for c in columns)
    if lower(first.name) == "chosen" and has_other:
        if not _is_whole(first.name, rows):
            raise InputError(
                f"{first.name} has the answers alone, and their questions stand in other columns",
                hint="write each row as one list `messages`, with the question and the answer",
            )
        return _chat(first, columns, PREFERENCES)
    return _chat(first, columns)


PREFERENCES = (
    "preferences (DPO): the chosen answers are learnt as they are, and the rejected ones are not "
    "used"
)


def _is_whole(name: str, rows: Rows) -> bool:
    """Return whether most conversations have a turn that is not the assistant's."""
    chats = [c for row in rows[:100] if isinstance(c := conversation(row.get(name), name), list)]
    return sum(any(m["role"] == "user" for m in c) for c in chats) * 2 > len(chats)


def _preferences(columns: Sequence[Column]) -> Choice | None:
    """Return the choice for rows with a chosen and a rejected answer as texts."""
    by_name = {lower(c.name): c for c in columns}
    answer = by_name.get("chosen") or by_name.get("chosen_response")
    rejected = by_name.get("rejected") or by_name.get("rejected_response")
    if not answer or not rejected or answer.content != "text":
        return None
    others = [c for c in columns if c not in (answer, rejected)]
    asked = min(_by_name(others, ASKED), key=lambda c: rank(c.name, ASKED), default=None)
    if asked is None:
        return Choice(form="text", answer=answer, why=PREFERENCES)
    optional = [c for c in others if lower(c.name) in ("system", "system_prompt") and _is_full(c)]
    return Choice(form="preferences", answer=answer, inputs=(*optional, asked), why=PREFERENCES)


def _is_full(column: Column) -> bool:
    return column.content == "text" and column.filled == column.rows


# -- answers


def _answer(columns: Sequence[Column], rows: Rows, *, alone: bool) -> Column | Unclear | None:
    """Return the column of answers; None where no column is one.

    `alone`: no input has been chosen, so that a column has to be left for it.
    """
    plain = [c for c in columns if c.content in ("text", "number", "boolean")]
    named = _without_copies(_by_name(plain, ANSWERED), rows, ANSWERED)
    if good := [c for c in named if _may_serve(c)] or named:
        return _one_of(good, "answer")
    if nested := [c for c in _by_name(columns, ANSWERED) if c.content in ("list", "object")]:
        _check_text(nested[0])
    serving = [c for c in plain if _may_serve(c)]
    for candidates in (
        [c for c in serving if c.is_closed and lower(c.name) not in OTHER],
        _by_name(serving, CATEGORIES),
    ):
        if kept := _without_copies(candidates, rows, CATEGORIES):
            if alone and len(plain) == len(kept) > 1:
                # One of them has to be the input.
                break
            return _one_of(kept, "answer")
    return _free_answer(serving, alone=alone)


def _free_answer(serving: Sequence[Column], *, alone: bool) -> Column | Unclear | None:
    """Return the column of answers where none is a closed set or has an answer's name."""
    texts = [c for c in serving if c.content == "text" and lower(c.name) not in OTHER]
    if len(texts) == 2 and alone:
        return next((c for c in reversed(texts) if c not in _by_name(texts, ASKED)), texts[-1])
    if len(texts) > 2 or (texts and not alone):
        return _one_of(texts, "answer")
    others = [c for c in serving if c not in texts]
    return _one_of(others, "answer") if others else None


def _may_serve(column: Column) -> bool:
    return column.share >= MOSTLY and not column.is_constant


def _one_of(columns: Sequence[Column], role: Literal["input", "answer"]) -> Column | Unclear:
    return columns[0] if len(columns) == 1 else Unclear(role=role, candidates=tuple(columns))


def _by_name(columns: Iterable[Column], names: tuple[str, ...]) -> list[Column]:
    return [c for c in columns if lower(c.name) in names]


def _without_copies(columns: Sequence[Column], rows: Rows, names: tuple[str, ...]) -> list[Column]:
    """Return the columns without those that say the same as another, as numbers of labels do.

    Of these stays one of texts, and of several the one with the likeliest name.
    """
    ordered = sorted(columns, key=lambda c: (c.content != "text", rank(c.name, names)))
    kept: list[Column] = []
    for column in ordered:
        if not any(_says_the_same(column, other, rows) for other in kept):
            kept.append(column)
    return [c for c in columns if c in kept]


def _says_the_same(one: Column, other: Column, rows: Rows) -> bool:
    if one.distinct != other.distinct or not (one.is_closed and other.is_closed):
        return False
    pairs = {
        (str(row.get(one.name)), str(row.get(other.name)))
        for row in rows
        if not is_missing(row.get(one.name)) and not is_missing(row.get(other.name))
    }
    return len(pairs) == one.distinct


# -- inputs


def _with_inputs(
    rest: Sequence[Column], answer: Column, columns: Sequence[Column]
) -> Choice | Unclear:
    texts = [c for c in rest if c.content == "text" and lower(c.name) not in OTHER]
    texts = [c for c in texts if _may_serve(c)] or texts
    texts = [c for c in texts if not c.is_closed] or texts
    names = {lower(c.name): c for c in columns if c.content in ("text", "empty")}
    for first, second in TWINS:
        if first in names and second in names and answer not in (names[first], names[second]):
            return _pair((names[first], names[second]), answer)
    if asked := sorted(_by_name(texts, ASKED), key=lambda c: rank(c.name, ASKED)):
        return _asked(asked[0], names, answer)
    if texts:
        best = sorted(texts, key=lambda c: -c.mean)
        if len(best) == 1 or best[0].mean >= CLEARLY * best[1].mean:
            return _pair((best[0],), answer)
        return Unclear(role="input", candidates=tuple(texts))
    others = [c for c in rest if c.content not in (*NOT_TEXT, "empty") and not c.is_constant]
    if not others:
        raise _no_pair(columns)
    words = [c for c in others if c.content == "id"] if len(others) > 1 else others
    if len(words) == 1 and not all(c.content == "number" for c in others):
        return _pair((words[0],), answer)
    return (
        _pair((others[0],), answer)
        if len(others) == 1
        else Unclear(role="input", candidates=tuple(others))
    )


def _asked(asked: Column, names: Mapping[str, Column], answer: Column) -> Choice:
    """Return the choice for a question, with the column of its context where there is one."""
    for first, second in CONTEXTS:
        context = names.get(second)
        if lower(asked.name) == first and context and context is not answer:
            form: Form = "instructions" if first == "instruction" else "pairs"
            inputs, optional = (asked, context), frozenset(_optional([context]))
            return Choice(form=form, answer=answer, inputs=inputs, optional=optional)
    return _pair((asked,), answer)


def _pair(inputs: tuple[Column, ...], answer: Column) -> Choice:
    """Return the choice for some columns as the input; of several, some may be empty."""
    optional = _optional(c for c in inputs if c.filled < c.rows) if len(inputs) > 1 else []
    if len(optional) == len(inputs):
        optional.remove(max(inputs, key=lambda c: c.filled).name)
    return Choice(form="pairs", answer=answer, inputs=inputs, optional=frozenset(optional))


def _optional(columns: Iterable[Column]) -> list[str]:
    """Return the names of those that a template can leave out: their names have no marks of it."""
    return [c.name for c in columns if not names_with_marks([c.name])]


def _plain_text(columns: Sequence[Column], rest: Sequence[Column]) -> Choice | Unclear:
    """Return the choice for texts without answers."""
    texts = [c for c in columns if c.content == "text" and lower(c.name) not in OTHER]
    texts = [c for c in texts if _may_serve(c)] or texts
    if not texts or len(rest) < len(columns):
        raise _no_pair(columns)
    why = "no column is an answer to another, so texts are learnt as they are"
    return Choice(form="text", answer=texts[0], why=why)


def _no_pair(columns: Sequence[Column]) -> InputError:
    listed = "; ".join(f"{c.name}: {about(c)}" for c in columns[:12])
    return InputError(
        "there are no two columns that ask and answer",
        hint=f"a row needs an input and an answer, or messages; the columns are {listed or 'none'}",
    )
