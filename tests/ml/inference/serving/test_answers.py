"""An answer in pieces: its text, its tokens, and its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.ml.inference.serving.answers import Piece, Prompt, Wanted, answer
from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime

TEXT = "I am glad about"


@pytest.fixture(scope="module")
def runtime(tiny_model: Path) -> HuggingFaceRuntime:
    return HuggingFaceRuntime(tiny_model, False)


def pieces(
    runtime: HuggingFaceRuntime, ends: set[int], room: int, **wanted: Any
) -> tuple[list[Piece], list[int]]:
    """Return a greedy answer to a text, and the text's tokens."""
    ids = runtime.tokenizer(TEXT, add_special_tokens=False).input_ids
    settings: dict[str, Any] = {
        "max_tokens": room,
        "temperature": 0.0,
        "top_p": 1.0,
        "stop": (),
        "logprobs": None,
        "echo": False,
    }
    prompt = Prompt(tokens=ids, begin=0, is_text=True, room=room)
    draw = np.random.default_rng(0)
    return list(answer(runtime, ends, prompt, Wanted(**(settings | wanted)), draw)), ids


def text_of(told: list[Piece]) -> str:
    return "".join(piece.text for piece in told)


def test_tokens_say_what_the_text_says(runtime: HuggingFaceRuntime) -> None:
    plain, ids = pieces(runtime, set(), 10)
    told, _ = pieces(runtime, set(), 10, logprobs=3, echo=True)
    assert text_of(told) == TEXT + text_of(plain)
    tokens = [token for piece in told for token in piece.tokens]
    assert len(tokens) == len(ids) + 10
    assert text_of(told).startswith("".join(token.text for token in tokens))
    assert [token.nats is None for token in tokens] == [True] + [False] * (len(tokens) - 1)
    assert all(len(token.top) == 3 for token in tokens[1:])
    assert (told[-1].reason, told[-1].written) == ("length", 10)


def test_the_end_is_told_and_is_no_text(runtime: HuggingFaceRuntime) -> None:
    told, _ = pieces(runtime, set(), 3, logprobs=1)
    first = next(token for piece in told for token in piece.tokens)
    (likeliest, _), *_ = first.top
    assert likeliest.startswith(first.text)
    every = set(range(len(runtime.tokenizer)))
    ended, _ = pieces(runtime, every, 3, logprobs=1)
    (piece,) = ended
    assert (piece.text, piece.reason, piece.written) == ("", "stop", 0)
    assert [token.is_end for token in piece.tokens] == [True]
    assert pieces(runtime, every, 3)[0][0].tokens == []


def test_a_stop_cuts_text_and_tokens(runtime: HuggingFaceRuntime) -> None:
    whole, _ = pieces(runtime, set(), 12, logprobs=0)
    text = text_of(whole)
    stop = text[3:5]
    at = text.index(stop)
    cut, _ = pieces(runtime, set(), 12, logprobs=0, stop=(stop,))
    assert text_of(cut) == text[:at]
    assert cut[-1].reason == "stop"
    size = 0
    for token in (token for piece in cut for token in piece.tokens):
        assert size < at
        size += len(token.text)
    assert size >= at


def test_a_prompt_alone_may_be_asked(runtime: HuggingFaceRuntime) -> None:
    told, ids = pieces(runtime, set(), 0, logprobs=0, echo=True)
    assert text_of(told) == TEXT
    assert sum(len(piece.tokens) for piece in told) == len(ids)
    plain, _ = pieces(runtime, set(), 0, echo=True)
    assert (text_of(plain), plain[-1].reason) == (TEXT, "length")


def test_a_prompt_read_in_portions_has_the_same_likelihoods(
    runtime: HuggingFaceRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = pieces(runtime, set(), 2, logprobs=1, echo=True)
    monkeypatch.setattr("olivebuild.ml.inference.sessions.PASS_LOGITS", 2 * 400)
    parts, _ = pieces(runtime, set(), 2, logprobs=1, echo=True)
    nats = [[t.nats or 0 for p in told for t in p.tokens] for told in (whole, parts)]
    assert nats[0] == pytest.approx(nats[1], abs=1e-3)


def test_the_tokenizers_own_beginning_is_no_text(runtime: HuggingFaceRuntime) -> None:
    begin = runtime.tokenizer.bos_token_id
    ids = [begin, *runtime.tokenizer(TEXT, add_special_tokens=False).input_ids]
    prompt = Prompt(tokens=ids, begin=1, is_text=True, room=0)
    wanted = Wanted(max_tokens=0, temperature=0, top_p=1, stop=(), logprobs=0, echo=True)
    told = list(answer(runtime, set(), prompt, wanted, np.random.default_rng(0)))
    assert text_of(told) == TEXT
    assert told[0].tokens[0].text == ""
    assert told[1].tokens[0].nats is not None
