"""Texts as tokens: what stands around and between them, and what of pairs is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.data.texts import EMPTY, TextEncoder, spaced
from olivebuild.steps.parts.sequences import Sequences

WORDS = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "|": 4, "None": 5, "?": 6}


def tokenizer(*, begin: str | None = "<s>", end: str | None = "</s>") -> Any:
    """Words with blanks between them; <s> is put before a text."""
    words = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begin:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=begin, eos_token=end)


def encoder(special: str = "none", form: str = "blocks", *, words: Any = None, **more: Any) -> Any:
    cut = Sequences.model_validate({"form": form, "special_tokens": special, **more})
    return TextEncoder(words or tokenizer(), cut)


def texts(*rows: str) -> list[dict[str, str]]:
    return [{"text": row} for row in rows]


def ids(rows: list[Tokens]) -> list[list[int]]:
    return [row.ids.tolist() for row in rows]


def test_a_missing_token_is_the_word_none() -> None:
    assert spaced(tokenizer(), "a") == "<s> a </s>"
    assert spaced(tokenizer(), "a", begin=False) == "a </s>"
    assert spaced(tokenizer(), "a", end=False) == "<s> a"
    assert spaced(tokenizer(begin=None), "a") == "None a </s>"
    assert spaced(tokenizer(end=None), "a") == "<s> a None"


@pytest.mark.parametrize(
    ("special", "expected"),
    [("none", [[2, 3], [3]]), ("spaced", [[0, 2, 3, 1], [0, 3, 1]])],
)
def test_what_stands_around_a_text(special: str, expected: list[list[int]]) -> None:
    rows = encoder(special).tokens("text", texts("a b", "b"))
    assert ids(rows) == expected
    assert all(row.counted.all() and row.flaw is None for row in rows)


def test_a_text_of_the_tokenizers_has_its_begin_and_its_end() -> None:
    (row,) = encoder("tokenizer").tokens("text", texts("a"))
    assert ids([row]) == [[0, 2, 1]]


def test_prompt_and_completion_are_one_text() -> None:
    rows = [{"prompt": "a ", "completion": "b"}]
    assert ids(encoder().tokens("prompt", rows)) == [[2, 3]]
    assert ids(encoder("tokenizer").tokens("prompt", rows)) == [[0, 2, 3, 1]]


def test_a_joiner_stands_after_each_text() -> None:
    assert ids(encoder(joiner=" | ").tokens("text", texts("a", "b"))) == [[2, 4], [3, 4]]


def test_a_text_without_a_token_is_told_and_not_kept() -> None:
    plain = encoder()
    empty, full = plain.tokens("text", texts("", "a"))
    assert empty.flaw == EMPTY
    assert (plain.keeps(empty), plain.keeps(full)) == (False, True)
    (joined,) = encoder(joiner="|").tokens("text", texts(""))
    assert joined.flaw is None


def pairs(*rows: tuple[str, str], loss: str = "completion", **more: Any) -> list[Tokens]:
    fields: dict[str, Any] = {
        "special": "none",
        "form": "pairs",
        "prompt_length": 2,
        "completion_length": 1,
    }
    columns = [{"prompt": prompt, "completion": completion} for prompt, completion in rows]
    result: list[Tokens] = encoder(**(fields | more)).tokens("prompt", columns, loss)
    return result


def test_each_side_of_a_pair_is_cut_to_its_length() -> None:
    (row,) = pairs(("a a a", "b b"))
    assert ids([row]) == [[2, 2, 3]]
    assert row.counted.tolist() == [False, False, True]
    assert row.flaw is not None
    assert row.flaw.why == (
        "prompt longer than 2 tokens and completion longer than 1 tokens: what comes later is cut"
    )
    assert not row.flaw.fault


def test_a_pair_that_fits_has_no_flaw() -> None:
    (row,) = pairs(("a a", "b"))
    assert (ids([row]), row.flaw) == ([[2, 2, 3]], None)
    (whole,) = pairs(("a a", "b"), loss="all")
    assert np.all(whole.counted)


def test_a_pair_without_an_answer_is_not_learnt() -> None:
    (row,) = pairs(("a", ""))
    assert row.flaw == EMPTY
    assert not encoder(form="pairs", prompt_length=2, completion_length=1).keeps(row)


def test_sides_have_the_special_tokens_that_belong_there() -> None:
    assert ids(pairs(("a", "b"), special="spaced", completion_length=2)) == [[0, 2, 3, 1]]
    assert ids(pairs(("a", "b"), special="tokenizer", completion_length=2)) == [[0, 2, 3, 1]]
    assert ids(pairs(("a", "b </s>"), special="tokenizer", completion_length=2)) == [[0, 2, 3, 1]]


def test_what_tokens_depend_on() -> None:
    abouts = [
        encoder().about,
        encoder("spaced").about,
        encoder(joiner="|").about,
        encoder(form="pairs", prompt_length=2, completion_length=1).about,
        encoder(form="pairs", prompt_length=1, completion_length=2).about,
    ]
    assert len({str(about) for about in abouts}) == len(abouts)


@pytest.mark.parametrize(
    ("special", "expected"), [("none", set()), ("spaced", {1}), ("tokenizer", {1})]
)
def test_the_tokens_that_end_what_is_trained(special: str, expected: set[int]) -> None:
    assert encoder(special).trained_ends("text", "all") == expected
