"""Conversations written by a model's own chat template.

A conversation is rendered whole, as `apply_chat_template` does it. A prompt is where an answer
begins in it.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError, first_line
from olivebuild.core.time_limit import TooMuch, bounded
from olivebuild.ml.data.plain_tokenizer import PlainTokenizer, common_prefix
from olivebuild.ml.data.template_habits import (
    SENTINELS,
    Habits,
    Refused,
    find_habits,
    header_of,
)

LONGEST = 10_000_000
"""Characters that a template may write; a model of the longest context takes half of that."""
UNWRITTEN = ("weight", "train")
"""Fields of a turn that are for the training alone."""
Turns = list[dict[str, Any]]
Tools = list[Any] | None


@dataclass(frozen=True)
class Rendered:
    """A conversation as its template writes it.

    `prompts` are the beginnings of `text` after which an answer is learnt, if `learnt` says so; the
    last one's is the last answer's.
    """

    text: str
    prompts: list[str]
    learnt: list[bool]


class ChatTemplate:
    """The chat template of a tokenizer; `ends` are the tokens at which the model is known to stop.

    What it leaves out of conversations is counted in `counts`, by the names of tokens.COUNTS.
    """

    def __init__(self, tokenizer: PlainTokenizer, ends: set[int], counts: Counter[str]) -> None:
        self._plain = tokenizer
        self.tokenizer = tokenizer.tokenizer
        self._ends = ends
        self._counts = counts

    @property
    def exists(self) -> bool:
        """Return whether the model has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def render(self, messages: Turns, tools: Tools, *, prompt: bool) -> str:
        """Return what the template writes, in transformers' sandbox.

        This is the one place where a template is rendered. Raises Refused; InputError without a
        template, or for one that does not end.
        """
        if not self.exists:
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
        """Return the error for a template that writes without end, with the file that holds it."""
        folder = Path(self.tokenizer.name_or_path)
        names = ("chat_template.jinja", "tokenizer_config.json")
        file = next((folder / name for name in names if (folder / name).is_file()), folder)
        return InputError(
            f"the chat template {fact}",
            where=str(file),
            hint="does it loop? read it, or take the template of the model's publisher",
        )

    @cached_property
    def habits(self) -> Habits:
        """The template's habits. Raises Refused where it takes no question with an answer."""
        return find_habits(self.render, self._plain, self._ends)

    @cached_property
    def turn_ends(self) -> set[int]:
        """The tokens with which the template ends answers; none without a template."""
        if self.exists:
            with contextlib.suppress(Refused):
                return self.habits.ends
        return set()

    @cached_property
    def lead(self) -> str:
        """The text that the template writes before every answer."""
        if self.exists:
            with contextlib.suppress(Refused):
                return self._plain.decode(self._plain.encode([self.habits.lead])[0]).strip()
        return ""

    def asked(self, messages: Turns, tools: Tools) -> str:
        """Return the text after which an answer to these turns begins. Raises Refused."""
        prompt = self.render(messages, tools, prompt=True)
        if self.habits.ignores_prompt and self.habits.header:
            answer = {"role": "assistant", "content": SENTINELS[0]}
            whole = self.render([*messages, answer], tools, prompt=False)
            before = whole.partition(SENTINELS[0])[0]
            if not before.startswith(prompt):
                raise Refused(
                    "it writes no generation prompt, and where the answer begins can't be told"
                )
            prompt += header_of(before[len(prompt) :])
        return prompt

    def rendered(self, format_: str, row: Mapping[str, Any], loss: str) -> Rendered:
        """Return a row's conversation, and where what is learnt begins in it.

        `loss` is "turns" for all of the assistant's turns; else the last one counts. Raises
        Refused.
        """
        messages, tools = messages_of(format_, row), tools_of(row)
        plain = [written_fields(m) for m in messages]
        text = self.render(plain, tools, prompt=False)
        self._check_written(plain, tools, text)
        last = len(messages) - 1
        answers = [last]
        if loss == "turns":
            answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        prompts: list[str] = []
        for i in answers:
            prompt = self.asked(plain[:i], tools) if i else ""
            if not i or not text.startswith(prompt):
                if loss != "turns" or (i == last and i):
                    raise self._no_beginning(prompt, text, plain[i - 1]["content"] if i else "")
                prompt = self._inside(plain, tools, text, i, len(prompts[-1]) if prompts else 0)
            prompts.append(prompt)
        return Rendered(text, prompts, [messages[i].get("weight", 1) != 0 for i in answers])

    def _no_beginning(self, prompt: str, text: str, last_turn: str) -> Refused:
        """Return the refusal of a conversation that does not begin with what is asked."""
        # Not the row's own text: equal reasons are reported once.
        end = prompt.rpartition(last_turn)[2] if last_turn else prompt
        fact = (
            "the whole conversation does not begin with what it writes as the prompt, "
            f"which ends in {end[-40:]!r}"
        )
        return Refused(fact, self._written_out(prompt, text))

    def _written_out(self, prompt: str, text: str) -> str:
        """Return a hint how to learn what a model is asked with, where that begins a thought.

        Such are the templates of models that always think (DeepSeek-R1's distillations, QwQ): no
        conversation has the thought, and an answer in one is never what they answer. Else empty.
        """
        if "<think>" not in prompt[common_prefix(prompt, text) :]:
            return ""
        try:
            asked = self.render([{"role": "user", "content": SENTINELS[0]}], None, prompt=True)
        except Refused:
            return ""
        begin = self._plain.decode(self._plain.begin) if self._plain.begin else ""
        question = json.dumps(
            asked.removeprefix(begin).replace(SENTINELS[0], "{QUESTION}"), ensure_ascii=False
        )
        end = ""
        if self.habits.end not in (None, self._plain.eos):
            end = self.tokenizer.convert_ids_to_tokens(self.habits.end)
        answer = json.dumps(f"\n</think>\n\n{{ANSWER}}{end}", ensure_ascii=False)
        return (
            "the model is asked with the beginning of a thought, and its template leaves thoughts "
            "out of conversations. Write out what it is asked and answers, with the names of your "
            f"columns: prompt: {question}, completion: {answer} (a thought may stand before "
            "</think>)"
        )

    def _inside(self, messages: Turns, tools: Tools, text: str, i: int, start: int) -> str:
        """Return the beginning of `text` after which the template writes turn `i`.

        Asked alone, it writes another one. `start` is where the turn may begin at the earliest.
        Raises Refused.
        """
        marked = self.render(
            [*messages[:i], messages[i] | {"content": SENTINELS[0]}, *messages[i + 1 :]],
            tools,
            prompt=False,
        )
        before = marked.partition(SENTINELS[0])[0]
        header = self.habits.header
        if not self.habits.ignores_prompt:
            question = [{"role": "user", "content": SENTINELS[0]}]
            alone = self.render(question, None, prompt=True)
            header = alone[len(self.render(question, None, prompt=False)) :]
        at = before.rfind(header, start) if header else len(before.rstrip(" "))
        if at < 0 or not text.startswith(before[: at + len(header)]):
            raise Refused(
                "it does not write turns one after the other, so that they can't be learnt one by "
                "one"
            )
        self._counts["context"] += i > 0
        return before[: at + len(header)]

    def _check_written(self, messages: Turns, tools: Tools, text: str) -> None:
        """Raise Refused where the template leaves out calls; count what else it leaves out."""

        def writes(key: str) -> bool:
            without = [{k: v for k, v in m.items() if k != key} for m in messages]
            return self._otherwise(without, tools) != text

        if any(m.get("tool_calls") for m in messages) and not writes("tool_calls"):
            raise Refused("it writes no tool calls, so that an empty answer would be learnt")
        self._counts["thought"] += _thought_in(messages[-1].get("content")) not in text
        self._counts["reasoning"] += any(
            any(m.get(key) for m in messages) and not writes(key)
            for key in ("reasoning_content", "thinking")
        )
        self._counts["tools"] += bool(tools) and self._otherwise(messages, None) == text

    def _otherwise(self, messages: Turns, tools: Tools) -> str:
        """Return what the template writes of a conversation that something was taken from.

        Empty where that is needed.
        """
        with contextlib.suppress(Refused):
            return self.render(messages, tools, prompt=False)
        return ""


def _thought_in(content: object) -> str:
    """Return the text between <think> and </think>; empty without one."""
    if not isinstance(content, str) or "</think>" not in content:
        return ""
    return content.partition("</think>")[0].rpartition("<think>")[2].strip()


def messages_of(format_: str, row: Mapping[str, Any]) -> Turns:
    """Return a row's turns as a template takes them."""
    if format_ != "messages":
        return [
            {"role": "user", "content": row["user"]},
            {"role": "assistant", "content": row["assistant"]},
        ]
    messages = row["messages"]
    return [_message(m) for m in (json.loads(messages) if isinstance(messages, str) else messages)]


def tools_of(row: Mapping[str, Any]) -> Tools:
    """Return the tools that a row's turns may call."""
    tools = row.get("tools") or None
    return json.loads(tools) if isinstance(tools, str) else tools


def written_fields(message: dict[str, Any]) -> dict[str, Any]:
    """Return a turn without the fields that are for the training alone."""
    return {k: v for k, v in message.items() if k not in UNWRITTEN}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn as templates read it.

    The arguments of a call are an object there, and a text in what servers send.
    """
    turn = dict(message)
    if turn.get("tool_calls"):
        turn["tool_calls"] = [_call(call) for call in turn["tool_calls"]]
    return turn


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    with contextlib.suppress(ValueError):
        if isinstance(arguments := json.loads(function["arguments"]), dict):
            return call | {"function": function | {"arguments": arguments}}
    return call
