"""Rows of a data set as token ids: one way for training, for judging and for measuring."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from olivebuild.core.errors import InputError, Where
from olivebuild.ml.data.chat_template import (
    UNWRITTEN,
    ChatTemplate,
    Rendered,
    Tools,
    Turns,
    messages_of,
    tools_of,
    written_fields,
)
from olivebuild.ml.data.examples import Example, Flaw, Tokens
from olivebuild.ml.data.plain_tokenizer import PlainTokenizer, common_prefix
from olivebuild.ml.data.template_habits import Habits, Refused

LATE, OPEN = "its beginning is cut", "the end of its answer is cut"
"""What happens to a row that is too long."""
COUNTS = {
    "merged": "in {n} rows the prompt's last token and the answer's first are one token, which is "
    "learnt: asked, the model sees the prompt's alone",
    "tools": "{n} rows have `tools`, which the chat template does not write",
    "reasoning": "{n} rows have thoughts (`reasoning_content`, `thinking`), which the chat "
    "template does not write",
    "thought": "{n} rows have a thought in their answer (<think>), which the chat template "
    "leaves out: it is not learnt",
    "context": "{n} turns are learnt as the whole conversation has them; the chat template writes "
    "something else before them when they are asked",
}
"""What is reported of rows, by its name in `Encoder.counts`."""


class Encoder:
    """Encodes rows with a model's own tokenizer and chat template.

    Training, judging, asking and checking all use it. `ends` are the tokens that the model is known
    to stop at. A conversation is rendered whole and tokenised once; what follows a prompt is learnt
    up to the token that ends the turn.
    """

    def __init__(self, tokenizer: Any, max_length: int = 0, ends: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.counts: Counter[str] = Counter()
        self.where: Where | None = None
        """Where rows come from, for errors about them."""
        self.eos: int | None = tokenizer.eos_token_id
        self.ends = {*ends, *([] if self.eos is None else [self.eos])}
        """Where an answer stops."""
        self.written: set[int] = set()
        """Tokens that end every completion of a data set because its own text says so."""
        self._plain = PlainTokenizer(tokenizer)
        self.template = ChatTemplate(self._plain, self.ends, self.counts)

    @property
    def about(self) -> list[object]:
        """Return what tokens depend on besides rows, tokenizer, length and loss."""
        return []

    def keeps(self, row: Tokens) -> bool:
        """Tell whether a row has something to learn from."""
        return bool(row.labels)

    # -- the chat template and the tokenizer, as others ask for them

    def render(self, messages: Turns, tools: Tools, *, prompt: bool) -> str:
        """Return what the chat template writes. Raises Refused."""
        return self.template.render(messages, tools, prompt=prompt)

    @property
    def habits(self) -> Habits:
        """The template's habits. Raises Refused where it takes no question with an answer."""
        return self.template.habits

    @property
    def begin(self) -> list[int]:
        """The tokens that the tokenizer puts before a text."""
        return self._plain.begin

    @property
    def turn_ends(self) -> set[int]:
        """The tokens with which the chat template ends answers; none without a template."""
        return self.template.turn_ends

    def messages(self, format_: str, row: Mapping[str, Any]) -> Turns:
        """Return a row's turns as a template takes them."""
        return messages_of(format_, row)

    def tools(self, row: Mapping[str, Any]) -> Tools:
        """Return the tools that a row's turns may call."""
        return tools_of(row)

    # -- texts

    def prompt_text(self, format_: str, row: Mapping[str, Any]) -> str:
        """Return what stands before a row's answer, as text.

        Raises InputError for a row that the template refuses.
        """
        if format_ in ("prompt", "text"):
            return str(row["prompt"]) if format_ == "prompt" else ""
        with self._reporting(row):
            messages = [written_fields(m) for m in messages_of(format_, row)]
            return self.template.asked(messages[:-1], tools_of(row))

    def completion_text(self, format_: str, row: Mapping[str, Any]) -> str:
        """Return a row's answer as its columns have it."""
        if format_ in ("prompt", "text"):
            return str(row["completion" if format_ == "prompt" else "text"])
        return str(messages_of(format_, row)[-1]["content"])

    @contextlib.contextmanager
    def _reporting(self, row: Mapping[str, Any]) -> Iterator[None]:
        """Turn a template's refusal into an InputError that shows the row."""
        try:
            yield
        except Refused as e:
            shown = next((str(row[name]) for name in ("messages", "user") if row.get(name)), "")
            hint = (
                "mend the row or leave it out; a system message can often stand in the user's, and "
                "prompt and completion take no template"
            )
            raise InputError(
                f"the chat template refuses this row: {e}: {shown[:160]}",
                where=self.where,
                hint=e.hint or hint,
            ) from None

    def answer_text(self, ids: Sequence[int], ends: Iterable[int] = ()) -> str:
        """Return an answer's tokens as its reader has them.

        They go up to the first of `ends`, without what the template puts before every answer. A
        special token is text like any other: an answer may consist of one.
        """
        stops = set(ends)
        stop = next((i for i, token in enumerate(ids) if token in stops), len(ids))
        text = self._plain.decode(list(ids[:stop])).strip()
        return text.removeprefix(self.template.lead).strip()

    @property
    def stops(self) -> set[int]:
        """All tokens that end an answer.

        The model stops at some of them; the others end what it is to write.
        """
        return self.ends | self.written | self.turn_ends

    # -- tokens

    def ask(self, format_: str, row: Mapping[str, Any]) -> list[int]:
        """Return the tokens of a row's prompt, whose answer is not known. Raises InputError."""
        rows = self._plain.encode([self.prompt_text(format_, row)])
        return (self._plain.begun(rows) if format_ in ("prompt", "text") else rows)[0]

    def encode(self, format_: str, row: Mapping[str, Any]) -> Example:
        """Return a row's prompt and completion, up to the token that ends it.

        What a template writes after that is not part of the answer. Raises InputError.
        """
        with self._reporting(row):
            return self.try_to_encode(format_, row)

    def try_to_encode(self, format_: str, row: Mapping[str, Any]) -> Example:
        """Return the same as `encode`. Raises Refused."""
        if format_ in ("prompt", "text"):
            return self.pair(self.prompt_text(format_, row), self.completion_text(format_, row))
        if "messages" in row:
            row = {**row, "messages": _counting_last(row["messages"])}
        rendered = self.template.rendered(format_, row, "completion")
        (tokens,) = self._tokenised([rendered], "completion")
        first, end = tokens.first, tokens.end
        return Example(tokens.ids[:first].tolist(), tokens.ids[first:end].tolist())

    def choices(
        self, format_: str, row: Mapping[str, Any], answers: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """Return a prompt, and each answer as a completion of it.

        The row's own comes first, then `answers`.
        """
        examples = [
            self.encode(format_, row),
            *(self.encode(format_, _with_answer(format_, row, text)) for text in answers),
        ]
        wholes = [[*e.prompt, *e.completion] for e in examples]
        # An answer's first letter may become one token with the prompt's last.
        n = min(len(e.prompt) for e in examples)
        while any(whole[:n] != wholes[0][:n] for whole in wholes):
            n -= 1
        return wholes[0][:n], [whole[n:] for whole in wholes]

    def pair(self, prompt: str, completion: str) -> Example:
        """Return the tokens of a prompt and its completion."""
        return self.pairs([prompt], [completion])[0]

    def pairs(self, prompts: list[str], completions: list[str]) -> list[Example]:
        """Return the tokens of prompts and completions as they stand together.

        They are cut where the prompt's own tokens end. Tokenised alone, a completion may get a
        space that it does not have in context.
        """
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        befores = self._plain.begun(self._plain.encode(prompts))
        wholes = self._plain.begun(self._plain.encode(texts))
        return [self._pair(*row) for row in zip(prompts, completions, befores, wholes, strict=True)]

    def _pair(self, prompt: str, completion: str, before: list[int], whole: list[int]) -> Example:
        """Return an example of at most `max_length` tokens; what is nearest to the answer stays."""
        before = before if prompt else []
        after = whole[len(before) :]
        if whole[: len(before)] != before:
            after = self._plain.encode([completion])[0]
        if not after or after[-1] not in self.stops:
            after = [*after, self._plain.end_token()]
        length = len(before) + len(after)
        if not self.max_length or length <= self.max_length:
            return Example(before, after)
        flaw = self._too_long(OPEN if len(after) > self.max_length else LATE, length)
        after = after[: self.max_length]
        return Example(before[max(0, len(before) + len(after) - self.max_length) :], after, flaw)

    def _too_long(self, cut: str, length: int) -> Flaw:
        return Flaw(f"longer than max_length {self.max_length}: {cut}", length)

    def tokens(
        self, format_: str, rows: Sequence[Mapping[str, Any]], loss: str = "completion"
    ) -> list[Tokens]:
        """Return rows to train on, each with its flaw if it has one: then it may be empty.

        `loss` counts the completion, each of the assistant's turns ("turns"), or "all".
        """
        if format_ in ("prompt", "text"):
            examples = self.pairs(
                [self.prompt_text(format_, row) for row in rows],
                [self.completion_text(format_, row) for row in rows],
            )
            encoded = [Tokens.of(example) for example in examples]
        else:
            encoded = self._conversations(format_, rows, loss)
        if loss == "all":
            encoded = [Tokens(t.ids, np.ones(len(t), bool), t.flaw) for t in encoded]
        return [
            t if t.labels or t.flaw else replace(t, flaw=_unlearnt(format_, row))
            for t, row in zip(encoded, rows, strict=True)
        ]

    def _conversations(
        self, format_: str, rows: Sequence[Mapping[str, Any]], loss: str
    ) -> list[Tokens]:
        """Return the tokens of conversations; none of those that the template refuses."""
        rendered: list[Rendered | Flaw] = []
        for row in rows:
            try:
                rendered.append(self.template.rendered(format_, row, loss))
            except Refused as e:
                rendered.append(Flaw(f"refused by the chat template: {e}", hint=e.hint))
        tokens = iter(self._tokenised([r for r in rendered if isinstance(r, Rendered)], loss))
        return [next(tokens) if isinstance(r, Rendered) else Tokens.none(r) for r in rendered]

    def _tokenised(self, rendered: Sequence[Rendered], loss: str) -> list[Tokens]:
        """Return the tokens of rendered conversations."""
        wholes = self._plain.encode([r.text for r in rendered])
        prompts = iter(self._plain.encode([p for r in rendered for p in r.prompts]))
        encoded = []
        for r, ids in zip(rendered, wholes, strict=True):
            starts = []
            for _ in r.prompts:
                alone = next(prompts)
                starts.append(common_prefix(alone, ids))
                self.counts["merged"] += starts[-1] < len(alone)
            encoded.append(self._counted(ids, starts, r.learnt, loss))
        return encoded

    def _counted(self, ids: list[int], starts: list[int], learnt: list[bool], loss: str) -> Tokens:
        """Return the tokens of a conversation, of which the model's are counted, ends included."""
        ends = self.turn_ends
        if not any(token in ends for token in ids[starts[-1] :]):
            # A template that ends no turn would teach none.
            end = self.habits.end
            ids = [*ids, self._plain.end_token() if end is None else end]
            ends = ends | {ids[-1]}
        counted = np.zeros(len(ids), bool)
        for k, (start, wanted) in enumerate(zip(starts, learnt, strict=True)):
            limit = starts[k + 1] if k + 1 < len(starts) else len(ids)
            indices = [i for i in range(start, limit) if ids[i] in ends]
            # In the last turn an end may stand within: a thought's. In an earlier one, what follows
            # may be another's turn.
            stop = (indices[0] if k + 1 < len(starts) else indices[-1]) + 1 if indices else limit
            counted[start:stop] = wanted
        return self._short(Tokens(np.array(ids, np.int32), counted), loss)

    def _short(self, row: Tokens, loss: str) -> Tokens:
        """Return at most `max_length` tokens of a row.

        They are those nearest to its end, or to the answer's beginning.
        """
        if not self.max_length or len(row) <= self.max_length:
            return row
        stop = row.end if loss == "completion" else len(row)
        if stop <= self.max_length:
            return Tokens(row.ids[:stop], row.counted[:stop])
        start, cut = stop - self.max_length, LATE
        if loss == "completion" and row.first < start:
            start, cut = row.first, OPEN
        end = start + self.max_length
        return Tokens(row.ids[start:end], row.counted[start:end], self._too_long(cut, stop))

    # -- ends

    def read_ends(self, format_: str, completions: Iterable[str]) -> None:
        """Note the token that ends every completion of a data set by its own text.

        One that is all there is, or not the same in all, is an answer and no end.
        """
        if format_ != "prompt":
            return
        names = {t.content: i for i, t in self.tokenizer.added_tokens_decoder.items()}
        end = _shared_end(names, completions)
        if end:
            self.written.add(names[end])

    def trained_ends(self, format_: str, loss: str) -> set[int]:
        """Return the tokens that end what is trained."""
        if format_ in ("prompt", "text"):
            return self.written or {self._plain.end_token()}
        if self.habits.end is None:
            return {self._plain.end_token()}
        return {self.habits.end, *(self.habits.inner if loss in ("turns", "all") else ())}


def _shared_end(names: Iterable[str], texts: Iterable[str]) -> str:
    """Return the longest of `names` with which all texts end, or "".

    It is taken from the first text. At least one text must be more than that.
    """
    end, longer = "", False
    for number, text in enumerate(texts):
        if not number:
            end = max((name for name in names if text.endswith(name)), key=len, default="")
        if not end or not text.endswith(end):
            return ""
        longer = longer or text != end
    return end if longer else ""


def _unlearnt(format_: str, row: Mapping[str, Any]) -> Flaw:
    """Return the flaw of a row none of whose tokens is counted."""
    if format_ == "messages" and messages_of(format_, row)[-1].get("weight") == 0:
        return Flaw("the last turn has weight 0", fault=False)
    return Flaw("no token of the answer is counted")


def _counting_last(messages: str) -> str:
    """Return turns whose last one counts, whatever the training was to leave out."""
    *turns, last = json.loads(messages)
    last = {k: v for k, v in last.items() if k not in UNWRITTEN}
    return json.dumps([*turns, last], ensure_ascii=False)


def _with_answer(format_: str, row: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return a row with another answer."""
    if format_ == "messages":
        *turns, last = json.loads(row["messages"])
        return {
            **row,
            "messages": json.dumps([*turns, last | {"content": text}], ensure_ascii=False),
        }
    return {**row, "completion" if format_ == "prompt" else "assistant": text}
