"""The rows that a build can use, by the columns that were chosen, and how it would divide them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from olivebuild.data import split
from olivebuild.data.conversation import conversation_of, tools_of, why_not_trained
from olivebuild.data.inspection.choice import Choice
from olivebuild.data.values import is_missing, text_of, why_not

MOST_COMPARED = 20_000
"""Rows of which likeness is computed here: of more it takes too long to wait for."""
MANY = 20
"""From this many rows on, likeness that joins most of them is left out."""


@dataclass(frozen=True, kw_only=True)
class Usable:
    """What rows are left, and what they are like.

    `contents` are what rows are compared by for likeness, as a build compares them.
    """

    read: int
    contents: Sequence[str]
    answers: Mapping[str, int]
    """Answer -> its rows, the most frequent first. Of conversations the last turn."""
    incomplete: int = 0
    """Rows that lack what they need."""
    duplicates: int = 0
    longest_answer: int = 0
    """Bytes of UTF-8."""
    longest_row: int = 0
    """Bytes of input and answer."""
    many_turns: int = 0
    """Conversations in which the assistant speaks more than once."""

    @property
    def kept(self) -> int:
        """The number of rows."""
        return len(self.contents)


def usable(rows: Sequence[Mapping[str, Any]], choice: Choice) -> Usable:
    """Return the rows that are complete and differ, as a build would keep them."""
    contents: list[str] = []
    answers: Counter[str] = Counter()
    seen: set[str] = set()
    longest = longest_row = incomplete = duplicates = many_turns = 0
    for row in rows:
        read = _chat(row, choice) if choice.is_chat else _texts(row, choice)
        if read is None:
            incomplete += 1
            continue
        identity, content, answer, turns = read
        if identity in seen:
            duplicates += 1
            continue
        seen.add(identity)
        contents.append(content)
        answers[answer] += 1
        longest = max(longest, len(answer.encode()))
        longest_row = max(longest_row, len(identity.encode()))
        many_turns += turns > 1
    return Usable(
        read=len(rows),
        contents=contents,
        answers=dict(answers.most_common()),
        incomplete=incomplete,
        duplicates=duplicates,
        longest_answer=longest,
        longest_row=longest_row,
        many_turns=many_turns,
    )


Read = tuple[str, str, str, int]
"""Identity, what is compared for likeness, the answer, and how often the assistant speaks."""


def _texts(row: Mapping[str, Any], choice: Choice) -> Read | None:
    """Return a row of inputs and an answer; None where it lacks one."""
    needed = [c.name for c in choice.inputs if c.name not in choice.optional]
    if any(why_not(name, row.get(name)) for name in (*needed, choice.answer.name)):
        return None
    inputs = [text_of(value) for c in choice.inputs if not is_missing(value := row.get(c.name))]
    answer = text_of(row[choice.answer.name])
    content = "\n".join(inputs) if choice.inputs else answer
    return json.dumps([inputs, answer], ensure_ascii=False), content, answer, 1


def _chat(row: Mapping[str, Any], choice: Choice) -> Read | None:
    """Return a conversation; None for one that teaches nothing."""
    messages = conversation_of(row, choice.answer.name)
    if isinstance(messages, str) or why_not_trained(messages) or tools_of(row) is None:
        return None
    content = "\n".join(m["content"] for m in messages if m["role"] != "assistant")
    turns = sum(m["role"] == "assistant" for m in messages)
    identity = json.dumps(messages, ensure_ascii=False, sort_keys=True)
    return identity, content, messages[-1]["content"], turns


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a build divides rows: how many go to test, and whether likeness counts."""

    train: int
    test: int
    near_duplicates: bool = True
    is_exact: bool = True


def division(contents: Sequence[str], holdout: float) -> Division:
    """Return how many rows are held out, computed as a build does.

    Where most rows are alike, so that they could not be parted, likeness is left out. `test` is 0
    where nothing parts them.
    """
    rows = len(contents)
    if rows > MOST_COMPARED:
        test = round(rows * holdout)
        return Division(train=rows - test, test=test, is_exact=False)
    by_likeness = _divided(contents, holdout, near=True)
    return by_likeness or _divided(contents, holdout, near=False) or Division(train=rows, test=0)


def _divided(contents: Sequence[str], holdout: float, *, near: bool) -> Division | None:
    """Return the division; None where all rows fall on one side, or most of them are alike."""
    rows, groups = len(contents), split.likeness(contents, near=near).groups
    test = sum(split.sides(groups, 0, holdout))
    if test in (0, rows):
        moved = split.nearest(groups, 0, test=test == 0)
        if moved is None:
            return None
        size = groups.count(moved)
        test = size if test == 0 else rows - size
    if near and rows >= MANY and 2 * max(Counter(groups).values()) > rows:
        return None
    return Division(train=rows - test, test=test, near_duplicates=near)
