"""A tokenizer's vocabulary as GGUF has it, of byte-level BPE and of SentencePiece's BPE.

What counts is the tokenizer as transformers loads it, by which the model was trained. llama.cpp
splits texts by rules of its own that a name picks (src/llama-vocab.cpp there): a tokenizer whose
rules have none is an error, for its texts would become other tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gguf import TokenType
from msgspec import Struct, structs

from olivebuild.core.errors import InputError
from olivebuild.ml.gguf import splitting

LEAST_SCORE = -1e9
"""Of tokens that no merge makes."""
NOT_STRIPPED = ("<unk>", "<s>", "<|endoftext|>")
"""Added tokens behind which llama.cpp leaves blanks, where it takes them away behind others."""


class Vocabulary(Struct, frozen=True, kw_only=True):
    """Tokens by their number, and how texts become tokens.

    `model` and `splitter` are llama.cpp's names (`tokenizer.ggml.model` and `.pre`). `merges` are
    those of byte-level BPE, `scores` those of SentencePiece; the other one is empty.
    """

    model: str
    splitter: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    blank_first: bool = False
    """A blank goes before a text, and after each special token."""
    strips: bool = False
    """Blanks behind special tokens are taken away."""
    notes: tuple[str, ...] = ()


class _Reader:
    """A tokenizer.json as the tokenizers library writes it."""

    def __init__(self, text: str, rows: int, where: str) -> None:
        self.data: dict[str, Any] = json.loads(text)
        self.model: dict[str, Any] = self.data["model"]
        self.added: list[dict[str, Any]] = self.data.get("added_tokens") or []
        self.rows, self.where = rows, where

    def refused(self, fact: str) -> InputError:
        hint = "llama.cpp would read texts as other tokens than the model was trained on"
        return InputError(f"no GGUF file can say that {fact}", where=self.where, hint=hint)

    def by_number(self) -> dict[int, str]:
        """Return the vocabulary's tokens that the embedding has rows for.

        Raises InputError where two share a number, or one that is not added has no row.
        """
        tokens: dict[int, str] = {}
        added_texts = {str(token["content"]) for token in self.added}
        for text, number in self.model["vocab"].items():
            if number >= self.rows and text not in added_texts:
                raise self.refused(f"the embedding of {self.rows} rows has none for {text!r}")
        added = ((str(token["content"]), int(token["id"])) for token in self.added)
        for text, number in (*self.model["vocab"].items(), *added):
            if number < self.rows and tokens.setdefault(number, text) != text:
                raise self.refused(f"token {number} is {tokens[number]!r} and {text!r}")
        return tokens

    def beyond(self) -> list[str]:
        """Return the added tokens that the embedding has no rows for."""
        return [str(t["content"]) for t in self.added if int(t["id"]) >= self.rows]


def vocabulary_of(
    tokenizer: Any, rows: int, where: str, *, begins_special: bool = False
) -> Vocabulary:
    """Return the vocabulary of a tokenizer of transformers, for an embedding of so many rows.

    `begins_special`: prompts of its chat template begin with a special token. Raises InputError for
    a tokenizer that llama.cpp would not follow.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        fact = f"{type(tokenizer).__name__} is no tokenizer of the tokenizers library"
        hint = "save it with a tokenizer.json"
        raise InputError(fact, where=where, hint=hint)
    reader = _Reader(backend.to_str(), rows, where)
    kind = reader.model.get("type")
    if kind != "BPE":
        raise reader.refused(f"its tokenizer is {kind}, and not BPE")
    if reader.model.get("dropout"):
        raise reader.refused("merges are dropped at random")
    if reader.model.get("continuing_subword_prefix") or reader.model.get("end_of_word_suffix"):
        raise reader.refused("parts of words are marked")
    strips = _strips(reader)
    is_pieces = bool(reader.model.get("byte_fallback"))
    if is_pieces:
        vocabulary = _pieces(reader, begins_special=begins_special)
    else:
        vocabulary = _byte_level(reader)
    notes = list(vocabulary.notes)
    if beyond := reader.beyond():
        shown = ", ".join(beyond[:3])
        notes.append(f"left out, for the embedding has no rows for them: {shown}")
    return structs.replace(vocabulary, strips=strips, notes=tuple(notes))


def _strips(reader: _Reader) -> bool:
    """Return whether blanks behind special tokens are taken away, as llama.cpp can be told to."""
    stripping = {str(t["content"]) for t in reader.added if t.get("rstrip")}
    if any(t.get("lstrip") or t.get("single_word") for t in reader.added):
        raise reader.refused("blanks before a special token, or a word's ends, count")
    if not stripping:
        return False
    present = {str(t["content"]) for t in reader.added}
    if stripping != present - set(NOT_STRIPPED):
        raise reader.refused(f"blanks are taken away behind {', '.join(sorted(stripping)[:3])}")
    if not {"<unk>", "<s>", "</s>", "<|endoftext|>"} <= present | set(reader.model["vocab"]):
        # llama.cpp looks these up, and ends where one is not there.
        raise reader.refused("blanks are taken away without the tokens of Phi-3")
    return True


def _byte_level(reader: _Reader) -> Vocabulary:
    """Return a vocabulary of byte-level BPE. Raises InputError."""
    splitter = splitting.name_of(reader.data, ignores=bool(reader.model.get("ignore_merges")))
    if splitter is None:
        told = json.dumps(reader.data.get("pre_tokenizer"), ensure_ascii=False)
        raise reader.refused(f"texts are split by {told[:200]}")
    notes = [*splitting.notes_on(reader.data), *_on_bytes(reader)]
    tokens, types = _listed(reader, _added_types(reader))
    return Vocabulary(
        model="gpt2",
        splitter=splitter,
        tokens=tokens,
        types=types,
        merges=tuple(" ".join(pair) for pair in merges_of(reader.model)),
        notes=tuple(notes),
    )


def _on_bytes(reader: _Reader) -> Iterator[str]:
    """Yield a note on bytes that have no tokens. Raises InputError where they count."""
    missing = splitting.bytes_without(reader.model["vocab"])
    if not missing:
        return
    shown = ", ".join(f"0x{byte:02X}" for byte in missing[:3])
    if reader.model.get("unk_token"):
        raise reader.refused(f"{len(missing)} bytes have no token, and count ({shown})")
    yield (
        f"{len(missing)} bytes have no token ({shown} ...): they are left out, but llama.cpp does "
        "not join what stands around them"
    )


def _pieces(reader: _Reader, *, begins_special: bool) -> Vocabulary:
    """Return a vocabulary in the manner of SentencePiece. Raises InputError."""
    blank = splitting.blank_of(reader.data)
    if blank is None:
        told = [reader.data.get("normalizer"), reader.data.get("pre_tokenizer")]
        raise reader.refused(f"texts are prepared by {json.dumps(told, ensure_ascii=False)[:200]}")
    if reader.model.get("ignore_merges"):
        raise reader.refused("whole words need no merges")
    named = _added_types(reader)
    vocabulary: dict[str, int] = reader.model["vocab"]
    for byte in range(256):
        number = vocabulary.get(f"<0x{byte:02X}>")
        if number is None:
            raise reader.refused(f"the byte {byte} has no token")
        named.setdefault(number, TokenType.BYTE)
    unknown = reader.model.get("unk_token")
    if unknown in vocabulary:
        named[vocabulary[unknown]] = TokenType.UNKNOWN
    tokens, types = _listed(reader, named)
    ranks = _ranks(reader)
    blank_first, notes = _blank(blank, begins_special=begins_special)
    return Vocabulary(
        model="llama",
        splitter="default",
        tokens=tokens,
        types=types,
        scores=tuple(-float(ranks[t]) if t in ranks else LEAST_SCORE for t in tokens),
        blank_first=blank_first,
        notes=notes,
    )


def _blank(blank: str, *, begins_special: bool) -> tuple[bool, tuple[str, ...]]:
    """Return whether llama.cpp is to put blanks of its own, and what differs then."""
    if blank in ("never", "prepend"):
        return blank == "prepend", ()
    if blank == "first" and begins_special:
        note = (
            "llama.cpp puts no blank before a text: prompts of the chat template, which begin with "
            "a special token, are read as in training, and others lack their first blank"
        )
        return False, (note,)
    where = "before a text and behind each special token"
    if blank == "first":
        note = f"llama.cpp puts a blank {where}, and the tokenizer before a text alone"
    else:
        note = (
            f"llama.cpp puts a blank {where}, also where there is one, and the tokenizer does not"
        )
    return True, (note,)


def _added_types(reader: _Reader) -> dict[int, int]:
    return {
        int(t["id"]): TokenType.CONTROL if t["special"] else TokenType.USER_DEFINED
        for t in reader.added
    }


def _listed(reader: _Reader, named: dict[int, int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return all tokens and their types, with rows of the embedding that no token has."""
    tokens = reader.by_number()
    texts = [tokens.get(i, f"[PAD{i}]") for i in range(reader.rows)]
    types = [
        int(named.get(i, TokenType.NORMAL) if i in tokens else TokenType.UNUSED)
        for i in range(reader.rows)
    ]
    if len(set(texts)) != len(texts):
        raise reader.refused("two tokens have the same text")
    if "" in tokens.values():
        raise reader.refused("a token is empty")
    return tuple(texts), tuple(types)


def merges_of(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the merges of a BPE model, in order."""
    pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])
    return [(left, right) for left, right in pairs]


def _ranks(reader: _Reader) -> dict[str, int]:
    """Return token -> place among the merges, by which SentencePiece's way finds the same pieces.

    That way joins the neighbours whose whole is ranked first, whatever they are. It finds what the
    merges say where each way to put a token together is a merge, and those of a token follow each
    other. Raises InputError where that does not hold.
    """
    pairs = merges_of(reader.model)
    ranks: dict[str, int] = {}
    last = ""
    for rank, (left, right) in enumerate(pairs):
        whole = left + right
        if whole != last and ranks.setdefault(whole, rank) != rank:
            raise reader.refused(f"the merges of {whole!r} do not follow each other")
        last = whole
    if stray := _not_merged(reader, set(pairs)):
        raise reader.refused(f"{stray[0]!r} and {stray[1]!r} are neighbours that do not merge")
    return ranks


def _not_merged(reader: _Reader, merges: set[tuple[str, str]]) -> tuple[str, str] | None:
    """Return two tokens whose whole is a token that they do not merge to."""
    vocabulary = reader.model["vocab"]
    apart = {str(t["content"]) for t in reader.added} | _bytes()
    pieces = vocabulary.keys() - apart
    for whole in pieces:
        for pair in _halves(whole):
            if pair[0] in pieces and pair[1] in pieces and pair not in merges:
                return pair
    return None


def _bytes() -> set[str]:
    return {f"<0x{byte:02X}>" for byte in range(256)}


def _halves(text: str) -> Iterable[tuple[str, str]]:
    return ((text[:i], text[i:]) for i in range(1, len(text)))


def additions(tokenizer: Any, where: str) -> tuple[bool, bool]:
    """Return whether the tokenizer puts a beginning before a text, and an end after it.

    Raises InputError where it adds anything else.
    """
    alone = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    for first, last in ((False, False), (True, False), (False, True), (True, True)):
        if full == begin * first + alone + end * last:
            return first, last
    shown: Sequence[int] = full[:6]
    fact = f"no GGUF file can say what the tokenizer adds to a text: 'a' becomes {shown}"
    raise InputError(fact, where=where, hint="a beginning and an end are all that it can say")
