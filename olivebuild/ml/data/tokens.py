"""Rows of a data set as token ids: one way for training, for judging and for measuring."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from olivebuild.core.errors import InputError, Where, first_line
from olivebuild.core.time_limit import TooMuch, bounded


@dataclass(frozen=True)
class Table:
    """A split of a data set.

    `labels` are (label, completion) pairs; empty where labels are not a closed set. `path`: where
    it was read.
    """

    format: str
    rows: list[dict[str, str]]
    labels: list[tuple[str, str]]
    path: str = ""


@dataclass(frozen=True)
class Flaw:
    """Why a row is not trained on, or not as a whole: then `length` is how many tokens it has.

    One that was asked for is no fault.
    """

    why: str
    length: int = 0
    fault: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Example:
    """Token ids; loss and likelihood count the completion alone, whose end token is part of it."""

    prompt: list[int]
    completion: list[int]
    flaw: Flaw | None = None


@dataclass(frozen=True)
class Tokens:
    """A row to train on: its ids (int32), and which of them the loss counts (bool).

    The first is never predicted.
    """

    ids: np.ndarray
    counted: np.ndarray
    flaw: Flaw | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def first(self) -> int:
        """The first counted token, or the row's end."""
        found = np.flatnonzero(self.counted)
        return int(found[0]) if len(found) else len(self)

    @property
    def labels(self) -> int:
        return int(self.counted[1:].sum())

    @staticmethod
    def of(example: Example) -> Tokens:
        ids = np.array([*example.prompt, *example.completion], np.int32)
        return Tokens(ids, np.arange(len(ids)) >= len(example.prompt), example.flaw)


def read_table(path: str | Path) -> Table:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    labels = [(str(a), str(b)) for a, b in json.loads(metadata.get("labels", "[]"))]
    return Table(metadata["format"], table.to_pylist(), labels, str(path))


class Refused(Exception):
    """What a chat template has against a conversation, in a few words; and what to do, where that
    is known.
    """

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


LATE, OPEN = "its beginning is cut", "the end of its answer is cut"
"""What happens to a row that is too long."""

LONGEST = 10_000_000
"""Characters that a template may write; a model of the longest context takes half of that."""
SENTINELS = tuple(f"olivebuild turn {i} stands here" for i in range(4))
"""Texts that no template changes: where they come out is where a turn's own text stands."""
COUNTS = {
    "merged": "in {n} rows the prompt's last token and the answer's first are one token, which is "
    "learnt: asked, the model sees the prompt's alone",
    "tools": "{n} rows have `tools`, which the chat template does not write",
    "reasoning": "{n} rows have thoughts (`reasoning_content`, `thinking`), which the chat "
    "template does "
    "not write",
    "thought": "{n} rows have a thought in their answer (<think>), which the chat template "
    "leaves out: "
    "it is not learnt",
    "context": "{n} turns are learnt as the whole conversation has them; the chat template writes "
    "something else before them when they are asked",
}
"""What is told of rows, by its name in `Encoder.counts`."""


@dataclass(frozen=True)
class Habits:
    """What a chat template does to every conversation, found out by rendering a small one."""

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
        return {*self.inner, *([] if self.end is None else [self.end])}


@dataclass(frozen=True)
class _Rendered:
    """A conversation as its template writes it, and the beginnings of it after which something is
    learnt; the last one's is the answer's.
    """

    text: str
    prompts: list[str]
    learnt: list[bool]


class Encoder:
    """Encodes rows with a model's own tokenizer and chat template: for training, judging, asking
    and checking alike.

    `ends` are the tokens that the model is known to stop at. A conversation is rendered whole and
    tokenised once, as
    `apply_chat_template` does it; a prompt is where an answer begins in it, and what follows is
    learnt up to the token that ends the turn.
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
        self._added = set(tokenizer.added_tokens_decoder)

    # -- the chat template

    def render(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, *, prompt: bool
    ) -> str:
        """What the chat template writes, in transformers' sandbox: the one place where a template
        is rendered. Raises Refused.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            hint = "use prompt and completion, and write the turns out"
            raise InputError(
                "the model has no chat template", where=str(self.tokenizer.name_or_path), hint=hint
            )
        try:
            with bounded():
                text = str(
                    self.tokenizer.apply_chat_template(
                        messages, tools=tools, tokenize=False, add_generation_prompt=prompt
                    )
                )
        except TooMuch as e:
            raise self._endless(str(e)) from None
        except Exception as e:  # noqa: BLE001
            # A template is a program of the model's: whatever it fails with is its refusal.
            raise Refused(first_line(e)) from None
        if len(text) > LONGEST:
            raise self._endless(
                f"writes {len(text):,} characters, of which at most {LONGEST:,} are taken"
            )
        return text

    def _endless(self, fact: str) -> InputError:
        folder = Path(self.tokenizer.name_or_path)
        file = next(
            (
                file
                for name in ("chat_template.jinja", "tokenizer_config.json")
                if (file := folder / name).is_file()
            ),
            folder,
        )
        return InputError(
            f"the chat template {fact}",
            where=str(file),
            hint="does it loop? read it, or take the template of the model's publisher",
        )

    @cached_property
    def habits(self) -> Habits:
        """Raises Refused by a template that takes no question with an answer, be it with a system
        message before it.
        """
        try:
            return self._habits([])
        except Refused:
            with contextlib.suppress(Refused):
                return self._habits([{"role": "system", "content": "olivebuild"}])
            raise

    def _habits(self, start: list[dict[str, Any]]) -> Habits:
        a, b, c, d = SENTINELS
        question, answer = (
            [*start, {"role": "user", "content": a}],
            {"role": "assistant", "content": b},
        )
        asked, whole = (
            self.render(question, None, prompt=True),
            self.render([*question, answer], None, prompt=False),
        )
        ignores = asked == self.render(question, None, prompt=False)
        before, _, tail = whole.partition(b)
        between = before[len(asked) :] if before.startswith(asked) else ""
        header = _header(between) if ignores else ""
        end = self._first_end(tail)
        inner: set[int] = set()
        with contextlib.suppress(Refused):
            longer = self.render(
                [
                    *question,
                    answer,
                    {"role": "user", "content": c},
                    {"role": "assistant", "content": d},
                ],
                None,
                prompt=False,
            )
            middle, opening = longer.partition(b)[2].partition(c)[0], longer.partition(a)[0]
            first = self._first_end(middle)
            if first is not None and not self._opens(first, self._plain([opening])[0]):
                inner.add(first)
        return Habits(ignores, header, between[len(header) :], end, frozenset(inner))

    def _first_end(self, text: str) -> int | None:
        """The token that ends an answer, of the text that follows it: one of the tokenizer's own
        additions, if possible a special one.
        """
        ids = self._plain([text])[0]
        special = self.ends | set(self.tokenizer.all_special_ids)
        return next(
            (i for i in ids if i in special), next((i for i in ids if self._may_end(i)), None)
        )

    def _may_end(self, token: int) -> bool:
        return token in self._added or token in self.ends

    def _opens(self, token: int, opening: list[int]) -> bool:
        """Whether a token that stands between two turns begins the second: in what opens a
        conversation it is then the last of its kind.
        """
        if token not in opening:
            return False
        rest = opening[len(opening) - opening[::-1].index(token) :]
        return not any(self._may_end(i) for i in rest)

    def messages(self, format_: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A row's turns as a template takes them."""
        if format_ != "messages":
            return [
                {"role": "user", "content": row["user"]},
                {"role": "assistant", "content": row["assistant"]},
            ]
        given = row["messages"]
        return [_message(m) for m in (json.loads(given) if isinstance(given, str) else given)]

    def tools(self, row: Mapping[str, Any]) -> list[Any] | None:
        """What a row's turns may call."""
        given = row.get("tools") or None
        return json.loads(given) if isinstance(given, str) else given

    def _asked(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """The text after which an answer to these turns begins. Raises Refused."""
        prompt = self.render(messages, tools, prompt=True)
        if self.habits.ignores_prompt and self.habits.header:
            before = self.render(
                [*messages, {"role": "assistant", "content": SENTINELS[0]}], tools, prompt=False
            ).partition(SENTINELS[0])[0]
            if not before.startswith(prompt):
                raise Refused(
                    "it writes no generation prompt, and where the answer begins can't be told"
                )
            prompt += _header(before[len(prompt) :])
        return prompt

    def _rendered(self, format_: str, row: Mapping[str, Any], loss: str) -> _Rendered:
        messages, tools = self.messages(format_, row), self.tools(row)
        plain = [{k: v for k, v in m.items() if k not in UNWRITTEN} for m in messages]
        text = self.render(plain, tools, prompt=False)
        self._check_written(plain, tools, text)
        last = len(messages) - 1
        wanted = (
            [i for i, m in enumerate(messages) if m["role"] == "assistant"]
            if loss == "turns"
            else [last]
        )
        prompts: list[str] = []
        for i in wanted:
            prompt = self._asked(plain[:i], tools) if i else ""
            if not i or not text.startswith(prompt):
                if loss != "turns" or (i == last and i):
                    # Not the row's own text: of equal reasons one is told.
                    end = prompt.rpartition(plain[i - 1]["content"])[2] if i else ""
                    fact = (
                        "the whole conversation does not begin with what it writes as the prompt, "
                        f"which ends in {end[-40:]!r}"
                    )
                    raise Refused(fact, self._written_out(prompt, text))
                prompt = self._inside(plain, tools, text, i, len(prompts[-1]) if prompts else 0)
            prompts.append(prompt)
        return _Rendered(text, prompts, [messages[i].get("weight", 1) != 0 for i in wanted])

    def _written_out(self, prompt: str, text: str) -> str:
        """How to learn what a model is asked with, where its generation prompt begins a thought
        that no conversation has; else nothing.

        As those have it that always think (DeepSeek-R1's distillations, QwQ): an answer of a
        conversation is never what they answer.
        """
        if "<think>" not in prompt[_common(prompt, text) :]:
            return ""
        try:
            asked = self.render([{"role": "user", "content": SENTINELS[0]}], None, prompt=True)
        except Refused:
            return ""
        begin = (
            str(self.tokenizer.decode(self.begin, skip_special_tokens=False)) if self.begin else ""
        )
        question = json.dumps(
            asked.removeprefix(begin).replace(SENTINELS[0], "{QUESTION}"), ensure_ascii=False
        )
        end = (
            ""
            if self.habits.end in (None, self.eos)
            else self.tokenizer.convert_ids_to_tokens(self.habits.end)
        )
        answer = json.dumps(f"\n</think>\n\n{{ANSWER}}{end}", ensure_ascii=False)
        return (
            "the model is asked with the beginning of a thought, and its template leaves thoughts "
            "out of conversations. Write out what it is asked "
            f"and answers, with the names of your columns: prompt: {question}, completion: "
            f"{answer} (a thought may stand before </think>)"
        )

    def _inside(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, text: str, i: int, start: int
    ) -> str:
        """The beginning of `text` after which the template writes turn `i`, where asked alone it
        writes another one.
        """
        marked = self.render(
            [*messages[:i], messages[i] | {"content": SENTINELS[0]}, *messages[i + 1 :]],
            tools,
            prompt=False,
        )
        before = marked.partition(SENTINELS[0])[0]
        header = self.habits.header
        if not self.habits.ignores_prompt:
            alone = self.render([{"role": "user", "content": SENTINELS[0]}], None, prompt=True)
            header = alone[
                len(self.render([{"role": "user", "content": SENTINELS[0]}], None, prompt=False)) :
            ]
        at = before.rfind(header, start) if header else len(before.rstrip(" "))
        if at < 0 or not text.startswith(before[: at + len(header)]):
            raise Refused(
                "it does not write turns one after the other, so that they can't be learnt one by "
                "one"
            )
        self.counts["context"] += i > 0
        return before[: at + len(header)]

    def _check_written(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, text: str
    ) -> None:
        """Raises Refused where the template leaves out what was called; counts what else it leaves
        out.
        """

        def writes(key: str) -> bool:
            return (
                self._otherwise([{k: v for k, v in m.items() if k != key} for m in messages], tools)
                != text
            )

        if any(m.get("tool_calls") for m in messages) and not writes("tool_calls"):
            raise Refused("it writes no tool calls, so that an empty answer would be learnt")
        content = messages[-1].get("content")
        thought = (
            content.partition("</think>")[0].rpartition("<think>")[2].strip()
            if isinstance(content, str) and "</think>" in content
            else ""
        )
        self.counts["thought"] += thought not in text
        self.counts["reasoning"] += any(
            any(m.get(key) for m in messages) and not writes(key)
            for key in ("reasoning_content", "thinking")
        )
        self.counts["tools"] += bool(tools) and self._otherwise(messages, None) == text

    def _otherwise(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """What the template writes of a conversation that something was taken from; nothing where
        that is needed.
        """
        with contextlib.suppress(Refused):
            return self.render(messages, tools, prompt=False)
        return ""

    # -- texts

    def prompt_text(self, format_: str, row: Mapping[str, Any]) -> str:
        """What stands before a row's answer, as text.

        Raises InputError for a row that the template refuses.
        """
        if format_ in ("prompt", "text"):
            return str(row["prompt"]) if format_ == "prompt" else ""
        with self._telling(row):
            messages = [
                {k: v for k, v in m.items() if k not in UNWRITTEN}
                for m in self.messages(format_, row)
            ]
            return self._asked(messages[:-1], self.tools(row))

    def completion_text(self, format_: str, row: Mapping[str, Any]) -> str:
        """A row's answer as its columns have it."""
        if format_ in ("prompt", "text"):
            return str(row["completion" if format_ == "prompt" else "text"])
        return str(self.messages(format_, row)[-1]["content"])

    @contextlib.contextmanager
    def _telling(self, row: Mapping[str, Any]) -> Iterator[None]:
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
        """An answer's tokens as its reader has them: up to the first of `ends`, without what the
        template puts before every answer.

        A special token is text like any other: an answer may consist of one.
        """
        stops = set(ends)
        stop = next((i for i, token in enumerate(ids) if token in stops), len(ids))
        return (
            str(self.tokenizer.decode(list(ids[:stop]), skip_special_tokens=False))
            .strip()
            .removeprefix(self.lead)
            .strip()
        )

    @cached_property
    def lead(self) -> str:
        """What the chat template writes before every answer."""
        if getattr(self.tokenizer, "chat_template", None):
            with contextlib.suppress(Refused):
                return str(
                    self.tokenizer.decode(
                        self._plain([self.habits.lead])[0], skip_special_tokens=False
                    )
                ).strip()
        return ""

    @property
    def stops(self) -> set[int]:
        """All tokens that end an answer: those at which the model stops, and those that end what it
        is to write.
        """
        return self.ends | self.written | self.turn_ends

    @cached_property
    def turn_ends(self) -> set[int]:
        """The tokens with which the chat template ends answers; none without a template."""
        if getattr(self.tokenizer, "chat_template", None):
            with contextlib.suppress(Refused):
                return self.habits.ends
        return set()

    # -- tokens

    def ask(self, format_: str, row: Mapping[str, Any]) -> list[int]:
        """The tokens of a row's prompt, whose answer is not known. Raises InputError."""
        text = self.prompt_text(format_, row)
        return (
            self._begun(self._plain([text]))[0]
            if format_ in ("prompt", "text")
            else self._plain([text])[0]
        )

    def encode(self, format_: str, row: Mapping[str, Any]) -> Example:
        """A row's prompt and completion, up to the token that ends it; what a template writes after
        that is nobody's to say.
        """
        with self._telling(row):
            return self.try_to_encode(format_, row)

    def try_to_encode(self, format_: str, row: Mapping[str, Any]) -> Example:
        """As `encode`, but raises Refused."""
        if format_ in ("prompt", "text"):
            return self.pair(self.prompt_text(format_, row), self.completion_text(format_, row))
        rendered = self._rendered(
            format_,
            {**row, "messages": _heard(row["messages"])} if "messages" in row else row,
            "completion",
        )
        (made,) = self._tokenised([rendered], "completion")
        found = np.flatnonzero(made.counted)
        first, last = (int(found[0]), int(found[-1]) + 1) if len(found) else (len(made), len(made))
        return Example(made.ids[:first].tolist(), made.ids[first:last].tolist())

    def choices(
        self, format_: str, row: Mapping[str, Any], answers: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """A prompt, and each answer as a completion of it: the row's own first, then `answers`."""
        found = [
            self.encode(format_, row),
            *(self.encode(format_, _answered(format_, row, text)) for text in answers),
        ]
        wholes = [[*e.prompt, *e.completion] for e in found]
        # An answer's first letter may become one token with the prompt's last.
        n = min(len(e.prompt) for e in found)
        while any(whole[:n] != wholes[0][:n] for whole in wholes):
            n -= 1
        return wholes[0][:n], [whole[n:] for whole in wholes]

    def pair(self, prompt: str, completion: str) -> Example:
        return self.pairs([prompt], [completion])[0]

    def pairs(self, prompts: list[str], completions: list[str]) -> list[Example]:
        """Tokens of prompts and completions as they stand together, cut where the prompt's own
        tokens end.

        Tokenised alone, a completion may get a space that it does not have in context.
        """
        befores = self._begun(self._plain(prompts))
        wholes = self._begun(
            self._plain([p + c for p, c in zip(prompts, completions, strict=True)])
        )
        return [
            self._pair(*given) for given in zip(prompts, completions, befores, wholes, strict=True)
        ]

    def _pair(self, prompt: str, completion: str, before: list[int], whole: list[int]) -> Example:
        before = before if prompt else []
        after = (
            whole[len(before) :] if whole[: len(before)] == before else self._plain([completion])[0]
        )
        if not after or after[-1] not in self.stops:
            after = [*after, self._eos()]
        if not self.max_length or len(before) + len(after) <= self.max_length:
            return Example(before, after)
        # What is nearest to the answer is kept.
        flaw = self._too_long(
            OPEN if len(after) > self.max_length else LATE, len(before) + len(after)
        )
        after = after[: self.max_length]
        return Example(before[max(0, len(before) + len(after) - self.max_length) :], after, flaw)

    def _too_long(self, what: str, length: int) -> Flaw:
        return Flaw(f"longer than max_length {self.max_length}: {what}", length)

    def tokens(
        self, format_: str, rows: Sequence[Mapping[str, Any]], loss: str = "completion"
    ) -> list[Tokens]:
        """Rows to train on, each with its flaw if it has one: then it may be empty.

        `loss`: of the completion, of each of the assistant's turns,
        or of all."""
        if format_ in ("prompt", "text"):
            found = self.pairs(
                [self.prompt_text(format_, row) for row in rows],
                [self.completion_text(format_, row) for row in rows],
            )
            made = [Tokens.of(example) for example in found]
        else:
            made = self._accepted(format_, rows, loss)
        if loss == "all":
            made = [Tokens(t.ids, np.ones(len(t), bool), t.flaw) for t in made]
        return [
            t if t.labels or t.flaw else replace(t, flaw=self._unlearnt(format_, row))
            for t, row in zip(made, rows, strict=True)
        ]

    def _accepted(self, format_: str, rows: Sequence[Mapping[str, Any]], loss: str) -> list[Tokens]:
        """The tokens of conversations; none of those that the template refuses."""
        rendered: list[_Rendered | Flaw] = []
        for row in rows:
            try:
                rendered.append(self._rendered(format_, row, loss))
            except Refused as e:
                rendered.append(Flaw(f"refused by the chat template: {e}", hint=e.hint))
        made = iter(self._tokenised([r for r in rendered if isinstance(r, _Rendered)], loss))
        return [
            next(made)
            if isinstance(r, _Rendered)
            else Tokens(np.zeros(0, np.int32), np.zeros(0, bool), r)
            for r in rendered
        ]

    def _unlearnt(self, format_: str, row: Mapping[str, Any]) -> Flaw:
        if format_ == "messages" and self.messages(format_, row)[-1].get("weight") == 0:
            return Flaw("the last turn has weight 0", fault=False)
        return Flaw("no token of the answer is counted")

    def _tokenised(self, rendered: Sequence[_Rendered], loss: str) -> list[Tokens]:
        wholes = self._plain([r.text for r in rendered])
        prompts = iter(self._plain([p for r in rendered for p in r.prompts]))
        made = []
        for r, ids in zip(rendered, wholes, strict=True):
            starts = []
            for _ in r.prompts:
                alone = next(prompts)
                starts.append(_common(alone, ids))
                self.counts["merged"] += starts[-1] < len(alone)
            made.append(self._counted(ids, starts, r.learnt, loss))
        return made

    def _counted(self, ids: list[int], starts: list[int], learnt: list[bool], loss: str) -> Tokens:
        """The tokens of a conversation, of which those are counted that the model says, ends
        included.
        """
        ends = self.turn_ends
        if not any(token in ends for token in ids[starts[-1] :]):
            # A template that ends no turn would teach none.
            ids = [*ids, self._eos() if self.habits.end is None else self.habits.end]
            ends = ends | {ids[-1]}
        counted = np.zeros(len(ids), bool)
        for k, (start, wanted) in enumerate(zip(starts, learnt, strict=True)):
            limit = starts[k + 1] if k + 1 < len(starts) else len(ids)
            found = [i for i in range(start, limit) if ids[i] in ends]
            # In the last turn an end may stand within: a thought's. In an earlier one, what follows
            # may be another's turn.
            stop = (found[0] if k + 1 < len(starts) else found[-1]) + 1 if found else limit
            counted[start:stop] = wanted
        return self._short(Tokens(np.array(ids, np.int32), counted), loss)

    def _short(self, row: Tokens, loss: str) -> Tokens:
        """At most `max_length` tokens of a row: what is nearest to its end, or to the answer's
        beginning.
        """
        if not self.max_length or len(row) <= self.max_length:
            return row
        found = np.flatnonzero(row.counted)
        stop = int(found[-1]) + 1 if len(found) and loss == "completion" else len(row)
        if stop <= self.max_length:
            return Tokens(row.ids[:stop], row.counted[:stop])
        start, what = stop - self.max_length, LATE
        if loss == "completion" and row.first < start:
            start, what = row.first, OPEN
        end = start + self.max_length
        return Tokens(row.ids[start:end], row.counted[start:end], self._too_long(what, stop))

    def _eos(self) -> int:
        if self.eos is None:
            hint = "set eos_token in tokenizer_config.json"
            raise InputError(
                "the tokenizer has no end token", where=str(self.tokenizer.name_or_path), hint=hint
            )
        return self.eos

    def _plain(self, texts: list[str]) -> list[list[int]]:
        """Tokens of texts alone: nothing that the tokenizer would add before or after."""
        try:
            return (
                [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
                if texts
                else []
            )
        except BaseException as e:
            # A regular expression of the tokenizer's has a limit of its own, at which the library
            # panics, which is no Exception.
            if type(e).__name__ != "PanicException":
                raise
            hint = "does a pattern of its pre_tokenizer repeat a repetition, such as (a+)+?"
            where = str(Path(self.tokenizer.name_or_path) / "tokenizer.json")
            raise InputError(
                f"the tokenizer gives up on a text: {first_line(e)}", where=where, hint=hint
            ) from None

    def _begun(self, rows: list[list[int]]) -> list[list[int]]:
        """Prompts that no template wrote, begun as the tokenizer begins a text; a beginning that is
        there already is not doubled.
        """
        begin = self.begin
        return [ids if ids[: len(begin)] == begin else [*begin, *ids] for ids in rows]

    @cached_property
    def begin(self) -> list[int]:
        """What the tokenizer puts before a text.

        What it would put after one must not end a prompt.
        """
        alone, full = self._plain(["a"])[0], list(self.tokenizer("a")["input_ids"])
        at = next((i for i in range(len(full)) if full[i : i + len(alone)] == alone), None)
        return (
            full[:at]
            if at is not None
            else full[:1]
            if full[:1] == [self.tokenizer.bos_token_id]
            else []
        )

    # -- ends

    def read_ends(self, format_: str, completions: Iterable[str]) -> None:
        """Take note of the token that ends every completion of a data set by its own text.

        One that is all there is, or not the same in
        all, is an answer and no end."""
        if format_ != "prompt":
            return
        written, count, longer = "", 0, False
        names = {t.content: i for i, t in self.tokenizer.added_tokens_decoder.items()}
        for text in completions:
            if not count:
                written = max((name for name in names if text.endswith(name)), key=len, default="")
            if not written or not text.endswith(written):
                return
            count, longer = count + 1, longer or text != written
        if count and longer:
            self.written.add(names[written])

    def trained_ends(self, format_: str, loss: str) -> set[int]:
        """The tokens that end what is trained."""
        if format_ in ("prompt", "text"):
            return self.written or {self._eos()}
        if self.habits.end is None:
            return {self._eos()}
        return {self.habits.end, *(self.habits.inner if loss in ("turns", "all") else ())}


UNWRITTEN = ("weight", "train")
"""What a turn has for the training alone."""


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn as templates read it: the arguments of a call are an object there, and a text in what
    servers send.
    """
    made = dict(message)
    if made.get("tool_calls"):
        made["tool_calls"] = [_call(call) for call in made["tool_calls"]]
    return made


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(function["arguments"]), dict):
            return call | {"function": function | {"arguments": found}}
    return call


def _heard(messages: str) -> str:
    """The turns with a last one that counts, whatever the training was to leave out: it is asked
    for here.
    """
    given = json.loads(messages)
    return json.dumps(
        [*given[:-1], {k: v for k, v in given[-1].items() if k not in UNWRITTEN}],
        ensure_ascii=False,
    )


def _answered(format_: str, row: Mapping[str, Any], text: str) -> dict[str, Any]:
    if format_ == "messages":
        given = json.loads(row["messages"])
        return {
            **row,
            "messages": json.dumps(
                [*given[:-1], given[-1] | {"content": text}], ensure_ascii=False
            ),
        }
    return {**row, "completion" if format_ == "prompt" else "assistant": text}


def _header(between: str) -> str:
    """What opens a turn, of all that stands before its text; a space belongs to the text, whose
    first token it is part of.
    """
    return between.rstrip(" ") if between.strip() else ""


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many tokens or letters two sequences have in common at their beginning."""
    n = min(len(first), len(second))
    if first[:n] == second[:n]:
        return n
    return next(i for i in range(n) if first[i] != second[i])
