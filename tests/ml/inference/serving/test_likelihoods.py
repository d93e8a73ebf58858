"""Tokens with their likelihoods."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.ml.inference.generate import Decoder
from olivebuild.ml.inference.serving.likelihoods import LEAST, log_shares, read_prompt, told


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_shares_of_large_logits_are_numbers() -> None:
    rows = np.array([[1e30, 0, 0], [0, 0, -np.inf]], np.float32)
    with np.errstate(over="ignore"):
        shares = log_shares(rows)
    assert shares[0, 0] == 0
    assert np.exp(shares[1]) == pytest.approx([0.5, 0.5, 0])


def test_a_token_comes_with_the_likeliest_in_their_order(tokenizer: Any) -> None:
    shares = np.full(len(tokenizer), -10, np.float32)
    ids = [tokenizer.convert_tokens_to_ids(one) for one in ("a", "b", "c")]
    shares[ids] = [-1, -2, -np.inf]
    decoder = Decoder(tokenizer)
    token = told(decoder, ids[2], shares, 2)
    assert token.text == "c"
    assert token.top == [("a", -1.0), ("b", -2.0)]
    # JSON has no infinity.
    assert token.nats == LEAST
    assert json.dumps(token.to_json(), allow_nan=False)
    assert told(decoder, ids[0], shares, 0).top == []
    assert len(told(decoder, ids[0], shares, 10**6).top) == len(tokenizer)
    assert told(decoder, ids[0], None, 2).nats is None


def test_a_character_of_several_tokens_is_told_with_its_last(tokenizer: Any) -> None:
    text = "aé𝄞b"
    shares = np.zeros(len(tokenizer), np.float32)
    decoder = Decoder(tokenizer)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) > len(text)
    assert "".join(told(decoder, i, shares, 1).text for i in ids) == text


def test_an_answer_completes_a_character_of_its_prompt(tokenizer: Any) -> None:
    ids = tokenizer("aé", add_special_tokens=False).input_ids
    decoder = Decoder(tokenizer, ids[:-1])
    assert decoder.peek(ids[-1]) == "é"
    assert decoder.add(ids[-1]) == "é"


class Whole:
    """A session that reads a prompt in one go."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def read(self, tokens: list[int]) -> np.ndarray:
        raise AssertionError

    def read_each(self, tokens: list[int]) -> np.ndarray:
        return self.rows[: len(tokens)]

    def portion(self, text: list[int]) -> int:
        return len(text)


def test_likelihoods_of_a_prompt_are_held_one_by_one(tokenizer: Any) -> None:
    prompt = [i % 50 for i in range(200)]
    rows = np.random.default_rng(0).normal(size=(len(prompt), 20_000)).astype(np.float32)
    expected = log_shares(rows[:3])
    tracemalloc.start()
    try:
        told_of = [
            one.nats for one, _ in read_prompt(Whole(rows), prompt, Decoder(tokenizer), 0, 0)
        ]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told_of[:4] == [None, *(float(expected[i, prompt[i + 1]]) for i in range(3))]
    assert peak < rows.nbytes / 10
