"""An answer to a prompt, piece by piece, as a request for it wants it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from olivebuild.ml.inference.generate import Decoder
from olivebuild.ml.inference.runtime import Runtime
from olivebuild.ml.inference.serving.likelihoods import Token, log_shares, read_prompt, told
from olivebuild.ml.inference.serving.sampling import Stops, sample
from olivebuild.ml.inference.sessions import Logits, Session, open_session

CONTEXT = 16
"""Tokens of a prompt that are decoded with an answer's first: a space shows in context alone."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of answers. `logprobs`: of so many tokens in each place; None for none."""

    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    logprobs: int | None
    echo: bool


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Tokens to go on from.

    The first `begin` are the tokenizer's own beginning. `is_text`: the answer goes on in the same
    text, and is no turn of its own. The answer may have `room` tokens.
    """

    tokens: list[int]
    begin: int
    is_text: bool
    room: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """More of an answer: text that is certain, and the tokens that are told with it.

    The last piece has the `reason` for the end, "stop" or "length", and how many tokens were
    written.
    """

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    reason: str = ""
    written: int = 0


def answer(
    runtime: Runtime, ends: set[int], prompt: Prompt, wanted: Wanted, draw: np.random.Generator
) -> Iterator[Piece]:
    """Yield an answer, its prompt before it where that is wanted.

    Raises StepError for logits that are no numbers.
    """
    tokens = prompt.tokens
    session = open_session(runtime, len(tokens) + prompt.room + 1)
    tokenizer = runtime.tokenizer
    if wanted.echo:
        decoder = Decoder(tokenizer)
        row = None
        if wanted.logprobs is None:
            yield Piece(text="".join(map(decoder.add, tokens[prompt.begin :])))
        else:
            prompted = read_prompt(session, tokens, decoder, wanted.logprobs, prompt.begin)
            for token, after in prompted:
                row = after
                yield Piece(text=token.text, tokens=[token])
    else:
        before = tokens[prompt.begin :][-CONTEXT:] if prompt.is_text else []
        decoder, row = Decoder(tokenizer, before), None
    if not prompt.room:
        yield Piece(text=decoder.rest(), reason="length")
        return
    if row is None:
        row = session.read(tokens)[-1]
    yield from _written(session, row, decoder, ends, prompt.room, wanted, draw)


def _written(
    session: Session,
    row: Logits,
    decoder: Decoder,
    ends: set[int],
    room: int,
    wanted: Wanted,
    draw: np.random.Generator,
) -> Iterator[Piece]:
    """Yield what the model writes after the logits `row`."""
    stops, pending, reason, written = Stops(wanted.stop), _Pending(), "length", 0
    for n in range(room):
        token = sample(row, wanted.temperature, wanted.top_p, draw)
        shares = None if wanted.logprobs is None else log_shares(row[None])[0]
        if token in ends:
            reason = "stop"
            if shares is not None:
                end = told(decoder, token, shares, wanted.logprobs or 0, is_end=True)
                pending.add(end, "")
            break
        written += 1
        if shares is None:
            piece = decoder.add(token)
        else:
            one = told(decoder, token, shares, wanted.logprobs or 0)
            piece = one.text
            pending.add(one, piece)
        text = stops.add(piece)
        if stops.is_hit:
            yield Piece(text=text, tokens=pending.before(text), reason="stop", written=written)
            return
        if text or pending.is_free(text):
            yield Piece(text=text, tokens=pending.within(text))
        if n + 1 < room:
            row = session.read([token])[-1]
    text = stops.add(decoder.rest())
    text, reason = (text, "stop") if stops.is_hit else (text + stops.rest(), reason)
    tokens = pending.before(text) if stops.is_hit else pending.all()
    yield Piece(text=text, tokens=tokens, reason=reason, written=written)


class _Pending:
    """Tokens whose text has not gone out yet."""

    def __init__(self) -> None:
        self._tokens: list[tuple[Token, int]] = []
        self._gone = 0
        """Characters of the first one's text that have gone out."""

    def add(self, token: Token, text: str) -> None:
        self._tokens.append((token, len(text)))

    def is_free(self, text: str) -> bool:
        """Return whether a token waits for no text."""
        return bool(self._tokens) and self._tokens[0][1] <= self._gone + len(text)

    def within(self, text: str) -> list[Token]:
        """Return the tokens all of whose text has gone out with `text`."""
        self._gone += len(text)
        gone = []
        while self._tokens and self._tokens[0][1] <= self._gone:
            token, size = self._tokens.pop(0)
            self._gone -= size
            gone.append(token)
        return gone

    def before(self, text: str) -> list[Token]:
        """Return the tokens that begin within `text`, the last that goes out."""
        gone, end = [], self._gone + len(text)
        for token, size in self._tokens:
            if end <= 0:
                break
            gone.append(token)
            end -= size
        return gone

    def all(self) -> list[Token]:
        return [token for token, _ in self._tokens]
