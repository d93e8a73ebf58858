"""A tokenizer's tokens of plain texts: no template, and only the tokenizer's own beginning."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError, first_line


class PlainTokenizer:
    """A tokenizer of transformers, of whose additions to a text only the beginning is taken."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos: int | None = tokenizer.eos_token_id
        self.added: set[int] = set(tokenizer.added_tokens_decoder)
        """Ids of the tokens that were added to the vocabulary."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text alone: nothing is added before or after.

        Raises InputError where a pattern of the tokenizer gives up.
        """
        if not texts:
            return []
        try:
            return [
                list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]
            ]
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

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens, special ones included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    @cached_property
    def begin(self) -> list[int]:
        """The tokens that the tokenizer puts before a text.

        Those that it would put after one must not end a prompt.
        """
        alone, full = self.encode(["a"])[0], list(self.tokenizer("a")["input_ids"])
        for start in range(len(full)):
            if full[start : start + len(alone)] == alone:
                return full[:start]
        return full[:1] if full[:1] == [self.tokenizer.bos_token_id] else []

    def begun(self, rows: list[list[int]]) -> list[list[int]]:
        """Return prompts that no template wrote, begun as the tokenizer begins a text.

        A beginning that is there already is not doubled.
        """
        begin = self.begin
        return [ids if ids[: len(begin)] == begin else [*begin, *ids] for ids in rows]

    def end_token(self) -> int:
        """Return the tokenizer's end token. Raises InputError where it has none."""
        if self.eos is None:
            hint = "set eos_token in tokenizer_config.json"
            raise InputError(
                "the tokenizer has no end token", where=str(self.tokenizer.name_or_path), hint=hint
            )
        return self.eos


def common_prefix(first: list[int] | str, second: list[int] | str) -> int:
    """Return how many tokens or letters two sequences have in common at their beginning."""
    n = min(len(first), len(second))
    if first[:n] == second[:n]:
        return n
    return next(i for i in range(n) if first[i] != second[i])
