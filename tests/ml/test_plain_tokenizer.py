"""Tokens of plain texts: begun as the tokenizer begins one, and ended by nothing."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from olivebuild.core.errors import InputError
from olivebuild.ml.data.plain_tokenizer import PlainTokenizer, common_prefix


def tokenizer(*, eos: str | None = "</s>") -> PlainTokenizer:
    """Words a and b; <s> is put before a text and </s> after it."""
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PlainTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token=eos)
    )


def test_nothing_is_added_to_a_text() -> None:
    assert tokenizer().encode(["a b", "b"]) == [[2, 3], [3]]
    assert tokenizer().encode([]) == []


def test_a_prompt_begins_once_and_does_not_end() -> None:
    plain = tokenizer()
    assert plain.begin == [0]
    assert plain.begun([[2], [0, 3]]) == [[0, 2], [0, 3]]


def test_special_tokens_are_text() -> None:
    assert tokenizer().decode([0, 2, 1]).split() == ["<s>", "a", "</s>"]


def test_a_tokenizer_without_an_end_is_an_error() -> None:
    assert tokenizer().end_token() == 1
    with pytest.raises(InputError, match="no end token"):
        tokenizer(eos=None).end_token()


@pytest.mark.parametrize(
    ("first", "second", "count"), [("abc", "abd", 2), ("ab", "abc", 2), ("", "a", 0)]
)
def test_what_two_have_in_common(first: str, second: str, count: int) -> None:
    assert common_prefix(first, second) == count
    assert common_prefix([*map(ord, first)], [*map(ord, second)]) == count
