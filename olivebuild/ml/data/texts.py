"""Rows as the tokens of whole texts, for sequences that are cut from them.

What stands around a text, and between texts, is what `sequences` of the recipe says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from olivebuild.ml.data.chat_template import messages_of, tools_of, written_fields
from olivebuild.ml.data.examples import Flaw, Tokens
from olivebuild.ml.data.template_habits import Refused
from olivebuild.ml.data.tokens import Encoder
from olivebuild.steps.parts.sequences import Sequences

VERSION = 1
EMPTY = Flaw("it has no token", fault=False)


def spaced(tokenizer: Any, text: str, *, begin: bool = True, end: bool = True) -> str:
    """Return a text between its special tokens and blanks, as Olive writes it.

    A token that a tokenizer lacks is the word None (TextGenParams of Olive, add_special_tokens).
    """
    text = f"{tokenizer.bos_token} {text}" if begin else text
    return f"{text} {tokenizer.eos_token}" if end else text


class TextEncoder(Encoder):
    """Encodes rows as texts of which all is learnt; of the form `pairs` by `loss`.

    Texts are not cut here, but for those of `pairs`. The joiner's tokens stand after each text's.
    """

    def __init__(self, tokenizer: Any, cut: Sequences, ends: Iterable[int] = ()) -> None:
        super().__init__(tokenizer, 0, ends)
        self.cut = cut
        self._joiner = self._plain.encode([cut.joiner])[0] if cut.joiner else []
        self._specials: Literal["tokenizer", "none", "spaced"] = cut.special_tokens

    @property
    def about(self) -> list[object]:
        """Return what tokens depend on besides rows, tokenizer, length and loss."""
        lengths = [self.cut.prompt_length, self.cut.completion_length]
        return ["texts", VERSION, self._specials, self.cut.joiner, *lengths]

    def keeps(self, row: Tokens) -> bool:
        """Tell whether a row is trained on: of a text that is joined, each token counts."""
        return bool(row.labels) if self.cut.form == "pairs" else len(row) > 0

    def tokens(
        self, format_: str, rows: Sequence[Mapping[str, Any]], loss: str = "completion"
    ) -> list[Tokens]:
        """Return rows as texts, each with its flaw if it has one: then it may be empty."""
        if self.cut.form == "pairs":
            return self._cut_pairs(rows, loss)
        texts = self._texts(format_, rows)
        return [text if isinstance(text, Tokens) else self._joined(text) for text in texts]

    def _joined(self, ids: Sequence[int]) -> Tokens:
        """Return a text's tokens with the joiner's, all of which are learnt."""
        whole = np.array([*ids, *self._joiner], np.int32)
        return Tokens(whole, np.ones(len(whole), bool), None if len(whole) else EMPTY)

    def _texts(
        self, format_: str, rows: Sequence[Mapping[str, Any]]
    ) -> Iterator[Sequence[int] | Tokens]:
        """Yield the ids of each row's text, or the empty row of one that a template refuses."""
        if self._specials == "tokenizer":
            if format_ == "prompt":
                # Cut between prompt and completion, a row may have other tokens there.
                rows = [{"text": row["prompt"] + row["completion"]} for row in rows]
                format_ = "text"
            for t in super().tokens(format_, rows, "all"):
                yield t.ids.tolist() if len(t) else t
            return
        rendered = [self._text(format_, row) for row in rows]
        ids = iter(self._plain.encode([text for text in rendered if isinstance(text, str)]))
        for text in rendered:
            yield next(ids) if isinstance(text, str) else text

    def _text(self, format_: str, row: Mapping[str, Any]) -> str | Tokens:
        """Return a row's text, or the empty row of one that a template refuses."""
        if format_ not in ("prompt", "text"):
            return self._rendered(format_, row)
        text = self.prompt_text(format_, row) + self.completion_text(format_, row)
        return spaced(self.tokenizer, text) if self._specials == "spaced" else text

    def _rendered(self, format_: str, row: Mapping[str, Any]) -> str | Tokens:
        """Return a conversation as the chat template writes it."""
        turns = [written_fields(turn) for turn in messages_of(format_, row)]
        try:
            return self.render(turns, tools_of(row), prompt=False)
        except Refused as e:
            return Tokens.none(Flaw(f"refused by the chat template: {e}", hint=e.hint))

    def _cut_pairs(self, rows: Sequence[Mapping[str, Any]], loss: str) -> list[Tokens]:
        """Return prompts and completions, tokenised and cut apart from each other."""
        prompts = [str(row["prompt"]) for row in rows]
        completions = [str(row["completion"]) for row in rows]
        if self._specials == "spaced":
            prompts = [spaced(self.tokenizer, text, end=False) for text in prompts]
            completions = [spaced(self.tokenizer, text, begin=False) for text in completions]
        before, after = self._plain.encode(prompts), self._plain.encode(completions)
        if self._specials == "tokenizer":
            before = self._plain.begun(before)
            after = [
                ids if ids and ids[-1] in self.stops else [*ids, self._plain.end_token()]
                for ids in after
            ]
        return [self._pair_of(*row, loss) for row in zip(before, after, strict=True)]

    def _pair_of(self, before: list[int], after: list[int], loss: str) -> Tokens:
        room = self.cut.prompt_length or len(before), self.cut.completion_length or len(after)
        cut = [
            f"{name} longer than {most} tokens"
            for name, ids, most in zip(("prompt", "completion"), (before, after), room, strict=True)
            if len(ids) > most
        ]
        before, after = before[: room[0]], after[: room[1]]
        ids = np.array([*before, *after], np.int32)
        counted = np.arange(len(ids)) >= (0 if loss == "all" else len(before))
        flaw = Flaw(f"{' and '.join(cut)}: what comes later is cut", fault=False) if cut else None
        row = Tokens(ids, counted, flaw)
        return row if row.labels else Tokens(ids, counted, EMPTY)

    def read_ends(self, format_: str, completions: Iterable[str]) -> None:
        """Note the token that ends every completion, where texts end as rows do."""
        if self._specials == "tokenizer":
            super().read_ends(format_, completions)

    def trained_ends(self, format_: str, loss: str) -> set[int]:
        """Return the tokens that end what is trained; none where texts have no end."""
        ends: set[int] = set()
        if self._specials == "tokenizer":
            ends = super().trained_ends(format_, loss)
        elif format_ not in ("prompt", "text"):
            end = self.habits.end
            ends = set() if end is None else {end, *self.habits.inner}
        elif self._specials == "spaced" and self.eos is not None:
            ends = {self.eos}
        return ends - {self.tokenizer.pad_token_id} if self.cut.mask_padding else ends
