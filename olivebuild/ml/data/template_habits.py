"""The habits of a chat template, found by rendering a small conversation."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Protocol

from olivebuild.ml.data.plain_tokenizer import PlainTokenizer

SENTINELS = tuple(f"olivebuild turn {i} stands here" for i in range(4))
"""Texts that no template changes: where they come out is where a turn's own text stands."""


class Refused(Exception):
    """The reason why a chat template refuses a conversation; and a hint, where one is known."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


class Render(Protocol):
    """A chat template: it writes a conversation as text, or raises Refused."""

    def __call__(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, *, prompt: bool
    ) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Habits:
    """The parts of a text that a chat template writes into every conversation."""

    ignores_prompt: bool
    """It writes the same with `add_generation_prompt` and without."""
    header: str
    """What it then writes before an answer's text, and what a prompt must end with."""
    lead: str
    """What it writes of its own between the prompt and the answer's text: an empty thought, a
    space.
    """
    end: int | None
    """The token that ends a last answer."""
    inner: frozenset[int]
    """The tokens that end an earlier answer, where they are other ones."""

    @property
    def ends(self) -> set[int]:
        """All tokens that end an answer."""
        return {*self.inner, *([] if self.end is None else [self.end])}


def find_habits(render: Render, tokenizer: PlainTokenizer, ends: set[int]) -> Habits:
    """Find a template's habits; `ends` are the tokens at which the model is known to stop.

    Raises Refused by a template that takes no question with an answer, be it with a system message
    before it.
    """
    finder = _Finder(render, tokenizer, ends)
    try:
        return finder.habits([])
    except Refused:
        with contextlib.suppress(Refused):
            return finder.habits([{"role": "system", "content": "olivebuild"}])
        raise


def header_of(between: str) -> str:
    """Return what opens a turn, of all that stands before its text.

    A space belongs to the text, whose first token it is part of.
    """
    return between.rstrip(" ") if between.strip() else ""


class _Finder:
    """Renders conversations of sentinels, and looks at what is written around them."""

    def __init__(self, render: Render, tokenizer: PlainTokenizer, ends: set[int]) -> None:
        self._render = render
        self._tokenizer = tokenizer
        self._ends = ends

    def habits(self, start: list[dict[str, Any]]) -> Habits:
        """Return the habits seen in conversations that begin with `start`. Raises Refused."""
        first, second, _, _ = SENTINELS
        question = [*start, {"role": "user", "content": first}]
        answer = {"role": "assistant", "content": second}
        asked = self._render(question, None, prompt=True)
        whole = self._render([*question, answer], None, prompt=False)
        ignores = asked == self._render(question, None, prompt=False)
        before, _, tail = whole.partition(second)
        between = before[len(asked) :] if before.startswith(asked) else ""
        header = header_of(between) if ignores else ""
        end = self._first_end(tail)
        return Habits(
            ignores_prompt=ignores,
            header=header,
            lead=between[len(header) :],
            end=end,
            inner=self._inner_ends([*question, answer]),
        )

    def _inner_ends(self, turns: list[dict[str, Any]]) -> frozenset[int]:
        """Return the token that ends an answer after which the conversation goes on, if any."""
        first, second, third, fourth = SENTINELS
        more = [{"role": "user", "content": third}, {"role": "assistant", "content": fourth}]
        try:
            longer = self._render([*turns, *more], None, prompt=False)
        except Refused:
            return frozenset()
        middle, opening = (
            longer.partition(second)[2].partition(third)[0],
            longer.partition(first)[0],
        )
        end = self._first_end(middle)
        if end is None or self._opens(end, self._tokenizer.encode([opening])[0]):
            return frozenset()
        return frozenset({end})

    def _first_end(self, text: str) -> int | None:
        """Return the token that ends an answer, of the text that follows it.

        It is one of the tokenizer's own additions, if possible a special one.
        """
        ids = self._tokenizer.encode([text])[0]
        special = self._ends | set(self._tokenizer.tokenizer.all_special_ids)
        return next(
            (i for i in ids if i in special), next((i for i in ids if self._may_end(i)), None)
        )

    def _may_end(self, token: int) -> bool:
        return token in self._tokenizer.added or token in self._ends

    def _opens(self, token: int, opening: list[int]) -> bool:
        """Return whether a token that stands between two turns begins the second.

        In what opens a conversation it is then the last of its kind.
        """
        if token not in opening:
            return False
        rest = opening[len(opening) - opening[::-1].index(token) :]
        return not any(self._may_end(i) for i in rest)
