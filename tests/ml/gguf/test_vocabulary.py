"""Vocabularies of tokenizers as GGUF has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from olivebuild.core.errors import InputError
from olivebuild.ml.gguf.vocabulary import additions, merges_of, vocabulary_of
from tests.support import gguf_models


def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("tokenizers")

    def folder(style: str) -> Path:
        if not (root / style).exists():
            gguf_models.write_tokenizer(style, root / style)
        return root / style

    return folder


def test_byte_level(folders: Callable[[str], Path]) -> None:
    tokenizer = loaded(folders("llama-bpe"))
    size = len(tokenizer)
    found = vocabulary_of(tokenizer, size + 3, "here")
    assert (found.model, found.splitter, found.scores) == ("gpt2", "llama-bpe", ())
    assert list(found.tokens[:size]) == tokenizer.convert_ids_to_tokens(range(size))
    assert found.tokens[size:] == tuple(f"[PAD{size + i}]" for i in range(3))
    kinds = dict(zip(found.tokens, found.types, strict=True))
    assert kinds["<|im_end|>"] == TokenType.CONTROL
    assert kinds["<tool>"] == TokenType.USER_DEFINED
    assert kinds["a"] == TokenType.NORMAL
    assert kinds[f"[PAD{size}]"] == TokenType.UNUSED
    assert all(pair.count(" ") == 1 for pair in found.merges)
    assert additions(tokenizer, "here") == (True, False)
    assert additions(loaded(folders("gpt-2")), "here") == (False, False)


def joined(text: str, scores: dict[str, float]) -> list[str]:
    """Join the neighbours whose whole scores most, as llama.cpp does for SentencePiece."""
    parts = list(text)
    while True:
        wholes = [(scores.get(a + b), -i) for i, (a, b) in enumerate(pairwise(parts))]
        best = max((w for w in wholes if w[0] is not None), default=None)
        if best is None:
            return parts
        at = -best[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_pieces_are_joined_by_their_scores(folders: Callable[[str], Path]) -> None:
    tokenizer = loaded(folders("prepend"))
    found = vocabulary_of(tokenizer, len(tokenizer), "here")
    assert (found.model, found.merges, found.blank_first) == ("llama", (), True)
    kinds = dict(zip(found.tokens, found.types, strict=True))
    assert kinds["<0x0A>"] == TokenType.BYTE
    assert kinds["<unk>"] == TokenType.UNKNOWN
    scores = dict(zip(found.tokens, found.scores, strict=True))
    for text in ("the old garden by my train", "nobody was there to find a letter"):
        marked = "\N{LOWER ONE EIGHTH BLOCK}" + text.replace(" ", "\N{LOWER ONE EIGHTH BLOCK}")
        assert joined(marked, scores) == tokenizer.tokenize(text)


@pytest.mark.parametrize(
    ("style", "begins_special", "blank", "said"),
    [
        ("prepend", True, True, ""),
        ("never", False, False, ""),
        ("always", True, True, "also where there is one"),
        ("first", False, True, "the tokenizer before a text alone"),
        ("first", True, False, "others lack their first blank"),
    ],
)
def test_where_blanks_go(
    folders: Callable[[str], Path], style: str, begins_special: bool, blank: bool, said: str
) -> None:
    tokenizer = loaded(folders(style))
    found = vocabulary_of(tokenizer, len(tokenizer), "here", begins_special=begins_special)
    assert found.blank_first is blank
    assert said in " ".join(found.notes)
    assert bool(found.notes) is bool(said)


def test_blanks_behind_special_tokens(folders: Callable[[str], Path]) -> None:
    tokenizer = loaded(folders("phi-3"))
    assert vocabulary_of(tokenizer, len(tokenizer), "here").strips


def test_tokens_that_have_no_row_are_left_out(folders: Callable[[str], Path]) -> None:
    tokenizer = loaded(folders("gpt-2"))
    found = vocabulary_of(tokenizer, len(tokenizer) - 1, "here")
    assert "<tool>" not in found.tokens
    assert "no rows for them: <tool>" in found.notes[-1]


def changed(folder: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Any:
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    data = json.loads((out / "tokenizer.json").read_text("utf-8"))
    change(data)
    (out / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    return loaded(out)


def drop_merge(data: dict[str, Any]) -> None:
    model = data["model"]
    wholes = [left + right for left, right in merges_of(model)]
    twice = next(i for i, whole in enumerate(wholes) if wholes.count(whole) > 1)
    del model["merges"][twice]


def move_merge(data: dict[str, Any]) -> None:
    merges = data["model"]["merges"]
    wholes = [left + right for left, right in merges_of(data["model"])]
    twice = next(i for i, whole in enumerate(wholes) if wholes.count(whole) > 1)
    merges.append(merges.pop(twice))


def strip_left(data: dict[str, Any]) -> None:
    data["added_tokens"][-1]["lstrip"] = True


def strip_one(data: dict[str, Any]) -> None:
    data["added_tokens"][-1]["rstrip"] = True


def split_otherwise(data: dict[str, Any]) -> None:
    data["pre_tokenizer"] = {"type": "Whitespace"}


def lower(data: dict[str, Any]) -> None:
    data["normalizer"] = {"type": "Lowercase"}


def drop_out(data: dict[str, Any]) -> None:
    data["model"]["dropout"] = 0.1


@pytest.mark.parametrize(
    ("style", "change", "fact"),
    [
        ("never", drop_merge, "neighbours that do not merge"),
        ("never", move_merge, "do not follow each other"),
        ("never", lower, "texts are prepared by"),
        ("gpt-2", lower, "texts are split by"),
        ("gpt-2", strip_left, "blanks before a special token"),
        ("gpt-2", strip_one, "blanks are taken away behind <tool>"),
        ("gpt-2", split_otherwise, 'texts are split by {"type": "Whitespace"}'),
        ("gpt-2", drop_out, "merges are dropped at random"),
    ],
)
def test_what_llama_cpp_would_read_otherwise_is_refused(
    folders: Callable[[str], Path],
    tmp_path: Path,
    style: str,
    change: Callable[[dict[str, Any]], None],
    fact: str,
) -> None:
    tokenizer = changed(folders(style), tmp_path / "changed", change)
    with pytest.raises(InputError) as caught:
        vocabulary_of(tokenizer, len(tokenizer), "the folder")
    assert fact in caught.value.fact
    assert str(caught.value.where) == "the folder"


def test_other_kinds_of_tokenizers_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    unigram = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram)
    with pytest.raises(InputError, match="its tokenizer is Unigram"):
        vocabulary_of(tokenizer, 2, "here")
