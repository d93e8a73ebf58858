"""Rows of a data set as token ids: one way for training, for judging and for measuring."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olivebuild.errors import InputError


@dataclass(frozen=True)
class Table:
    """A split of a data set. `labels` are (label, completion) pairs; empty where labels are not a closed set."""

    format: str
    rows: list[dict[str, str]]
    labels: list[tuple[str, str]]


@dataclass(frozen=True)
class Example:
    """Token ids; loss and likelihood count the completion alone, whose end token is part of it."""

    prompt: list[int]
    completion: list[int]


@dataclass(frozen=True)
class Tokens:
    """A row to train on: its ids (int32), and which of them the loss counts (bool). The first is never predicted."""

    ids: np.ndarray
    counted: np.ndarray

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
        return Tokens(ids, np.arange(len(ids)) >= len(example.prompt))


def read_table(path: str | Path) -> Table:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    labels = [(str(a), str(b)) for a, b in json.loads(metadata.get("labels", "[]"))]
    return Table(metadata["format"], table.to_pylist(), labels)


class Encoder:
    """Encodes rows with a model's own tokenizer and chat template."""

    def __init__(self, tokenizer: Any, max_length: int = 0) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncated = 0
        if tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end token", where=str(tokenizer.name_or_path), hint="set eos_token in tokenizer_config.json")
        self.ends = {tokenizer.eos_token_id, *tokenizer.all_special_ids}

    def prompt_text(self, format_: str, row: dict[str, str]) -> str:
        if format_ == "prompt":
            return row["prompt"]
        if format_ == "text":
            return ""
        messages = self.messages(format_, row)[:-1]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def completion_text(self, format_: str, row: dict[str, str]) -> str:
        if format_ in ("prompt", "text"):
            return row["completion" if format_ == "prompt" else "text"]
        return str(self.messages(format_, row)[-1]["content"])

    def messages(self, format_: str, row: dict[str, str]) -> list[dict[str, str]]:
        if not getattr(self.tokenizer, "chat_template", None):
            hint = "use prompt and completion, and write the turns out"
            raise InputError("the model has no chat template", where=str(self.tokenizer.name_or_path), hint=hint)
        if format_ == "messages":
            return list(json.loads(row["messages"]))
        return [{"role": "user", "content": row["user"]}, {"role": "assistant", "content": row["assistant"]}]

    def encode(self, format_: str, row: dict[str, str]) -> Example:
        return self.pair(self.prompt_text(format_, row), self.completion_text(format_, row))

    def pair(self, prompt: str, completion: str) -> Example:
        return self.pairs([prompt], [completion])[0]

    def pairs(self, prompts: list[str], completions: list[str]) -> list[Example]:
        """Tokens of prompts and completions as they stand together, cut where the prompt's own tokens end.

        Tokenised alone, a completion may get a space that it does not have in context.
        """
        befores = self._ids(prompts)
        wholes = self._ids([p + c for p, c in zip(prompts, completions, strict=True)])
        return [self._pair(*given) for given in zip(prompts, completions, befores, wholes, strict=True)]

    def _pair(self, prompt: str, completion: str, before: list[int], whole: list[int]) -> Example:
        before = before if prompt else []
        after = whole[len(before) :] if whole[: len(before)] == before else self.tokenizer(completion, add_special_tokens=False)["input_ids"]
        if not after or after[-1] not in self.ends:
            after = [*after, self.tokenizer.eos_token_id]
        if self.max_length and len(before) + len(after) > self.max_length:
            # What is nearest to the answer is kept.
            self.truncated += 1
            after = after[: self.max_length]
            before = before[max(0, len(before) + len(after) - self.max_length) :]
        return Example(before, after)

    def tokens(self, format_: str, rows: list[dict[str, str]], loss: str = "completion") -> list[Tokens]:
        """Rows to train on. `loss`: of the completion, of each of the assistant's turns, or of all."""
        if loss == "turns":
            return [self._turns(format_, row) for row in rows]
        found = self.pairs([self.prompt_text(format_, row) for row in rows], [self.completion_text(format_, row) for row in rows])
        made = [Tokens.of(example) for example in found]
        return [Tokens(t.ids, np.ones(len(t), bool)) for t in made] if loss == "all" else made

    def _turns(self, format_: str, row: dict[str, str]) -> Tokens:
        """A whole conversation, of which every turn of the assistant is counted, its end included."""
        messages = self.messages(format_, row)
        whole = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        spans = []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before = str(self.tokenizer.apply_chat_template(messages[:i], tokenize=False, add_generation_prompt=True)) if i else ""
                after = str(self.tokenizer.apply_chat_template(messages[: i + 1], tokenize=False))
                if not (whole.startswith(before) and whole.startswith(after)):
                    hint = "leave `loss` out: the last turn is counted"
                    raise InputError("the chat template does not write turns one after the other", where=str(self.tokenizer.name_or_path), hint=hint)
                spans.append((len(before), len(after)))
        made = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        counted = np.array([any(a <= start and end <= b and start < end for a, b in spans) for start, end in made["offset_mapping"]], bool)
        ids = np.array(made["input_ids"], np.int32)
        if self.max_length and len(ids) > self.max_length:
            self.truncated += 1
        cut = max(0, len(ids) - self.max_length) if self.max_length else 0
        return Tokens(ids[cut:], counted[cut:])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        bos = self.tokenizer.bos_token_id
        # A template that writes the first token itself must not get it twice.
        return [ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids for ids in self.tokenizer(texts)["input_ids"]]
