"""Tokens with their log-likelihoods in nats, and the likeliest in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from olivebuild.ml.inference.generate import Decoder
from olivebuild.ml.inference.sessions import Logits, Session

LEAST = -9999.0
"""What stands for the log-likelihood of what can't be: JSON has no infinity."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token as text, and of those that could stand in its place the likeliest.

    `nats` is None of a text's first token, which nothing precedes. `is_end`: it ends the answer and
    is no part of its text.
    """

    text: str
    nats: float | None
    top: list[tuple[str, float]]
    is_end: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def log_shares(rows: Logits) -> Logits:
    """Return log-likelihoods [tokens, vocabulary] of logits."""
    shifted = rows - rows.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def told(
    decoder: Decoder, token: int, shares: Logits | None, count: int, *, is_end: bool = False
) -> Token:
    """Return a token with the `count` likeliest in its place; the decoder takes it in.

    `shares` are log-likelihoods [vocabulary], None where nothing precedes the token.
    """
    if shares is None:
        return Token(text=decoder.add(token), nats=None, top=[])
    top = np.argpartition(-shares, min(count, len(shares) - 1))[:count]
    top = top[np.argsort(-shares[top], kind="stable")]
    pairs = [(decoder.peek(int(t)), _nats(shares[t])) for t in top]
    text = decoder.peek(token) if is_end else decoder.add(token)
    return Token(text=text, nats=_nats(shares[token]), top=pairs, is_end=is_end)


def read_prompt(
    session: Session, prompt: Sequence[int], decoder: Decoder, count: int, unseen: int
) -> Iterator[tuple[Token, Logits]]:
    """Yield each token of a prompt with its likelihood, and the logits [vocabulary] after it.

    The first `unseen` are the tokenizer's own beginning and no part of the text.
    """
    size, before = session.portion(list(prompt)), None
    for start in range(0, len(prompt), size):
        portion = list(prompt[start : start + size])
        rows = session.read_each(portion)
        # Where a prompt is read in one go, the likelihoods of all of it at once would be as much
        # again, several times.
        for i, token in enumerate(portion):
            if start + i < unseen:
                one = Token(text="", nats=None if before is None else _nats(before[token]), top=[])
            else:
                one = told(decoder, token, before, count)
            before = log_shares(rows[i : i + 1])[0]
            yield one, rows[i]


def _nats(share: float) -> float:
    return max(float(share), LEAST)
