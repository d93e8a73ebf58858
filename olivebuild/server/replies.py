"""Events of the model process -> responses in OpenAI's form, whole or as a stream."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]


class Reply(ABC):
    """The response to a request, of which the events come one after the other."""

    prefix: str
    name: str
    """What OpenAI calls such a response, and one of a stream."""
    chunk: str

    def __init__(self, model: str, fingerprint: str | None) -> None:
        self._head: Json = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._choices: dict[int, list[Mapping[str, Any]]] = {}
        self._reasons: dict[int, str] = {}
        self._prompt_tokens = self._written = 0

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in an event."""
        if event["event"] == "begun":
            self._prompt_tokens = event["prompt_tokens"]
        elif event["event"] == "text":
            self._choices.setdefault(event["choice"], []).append(event)
        elif event["event"] == "choice":
            self._choices.setdefault(event["choice"], [])
            self._reasons[event["choice"]] = event["reason"]
            self._written += event["written"]

    @property
    def usage(self) -> Json:
        """The numbers of tokens; the one that ends an answer does not count."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._written,
            "total_tokens": self._prompt_tokens + self._written,
        }

    def whole(self) -> Json:
        """Return the response, when all events were taken in."""
        choices = []
        for index, events in sorted(self._choices.items()):
            text = "".join(event["text"] for event in events)
            tokens = [token for event in events for token in event["tokens"]]
            choices.append(
                {"index": index, "finish_reason": self._reasons.get(index)}
                | self._choice(text, tokens)
            )
        return self._head | {"object": self.name, "choices": choices, "usage": self.usage}

    def begun(self, count: int) -> Iterator[Json]:
        """Yield what a stream of `count` answers begins with."""
        yield from ()

    def streamed(self, event: Mapping[str, Any]) -> Iterator[Json]:
        """Yield what a stream has for an event that was taken in."""
        if event["event"] == "text":
            yield self._chunk(event["choice"], self._part(event), None)
        elif event["event"] == "choice":
            yield self._chunk(event["choice"], self._last(), event["reason"])

    def counted(self) -> Json:
        """Return what a stream has of the numbers of tokens."""
        return self._head | {"object": self.chunk, "choices": [], "usage": self.usage}

    def _chunk(self, index: int, part: Json, reason: str | None) -> Json:
        choice = {"index": index, "finish_reason": reason} | part
        return self._head | {"object": self.chunk, "choices": [choice]}

    @abstractmethod
    def _choice(self, text: str, tokens: list[Json]) -> Json: ...

    @abstractmethod
    def _part(self, event: Mapping[str, Any]) -> Json: ...

    @abstractmethod
    def _last(self) -> Json: ...


class CompletionReply(Reply):
    """The response to a request to go on with texts."""

    prefix, name, chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, fingerprint: str | None, *, logprobs: bool) -> None:
        super().__init__(model, fingerprint)
        self._tells = logprobs
        self._offsets: dict[int, int] = {}

    def _choice(self, text: str, tokens: list[Json]) -> Json:
        return {"text": text, "logprobs": self._logprobs(tokens, 0)}

    def _part(self, event: Mapping[str, Any]) -> Json:
        index, tokens = event["choice"], event["tokens"]
        start = self._offsets.get(index, 0)
        self._offsets[index] = start + sum(len(t["text"]) for t in tokens if not t["is_end"])
        return {"text": event["text"], "logprobs": self._logprobs(tokens, start)}

    def _last(self) -> Json:
        return {"text": "", "logprobs": None}

    def _logprobs(self, tokens: list[Json], start: int) -> Json | None:
        """Return the tokens' likelihoods, the one that ends the answer among them.

        `start` is where their text begins. Of tokens with the same text the likeliest is told.
        """
        if not self._tells:
            return None
        offsets = []
        for token in tokens:
            offsets.append(start)
            start += len(token["text"])
        return {
            "tokens": [token["text"] for token in tokens],
            "token_logprobs": [token["nats"] for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": offsets,
        }


def _top(token: Json) -> Json | None:
    """Return the likeliest tokens in a place, and the one that stands there."""
    if token["nats"] is None:
        return None
    likeliest: Json = {}
    for text, nats in [*token["top"], (token["text"], token["nats"])]:
        likeliest.setdefault(text, nats)
    return likeliest


class ChatReply(Reply):
    """The response to a conversation."""

    prefix, name, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, fingerprint: str | None, *, logprobs: bool) -> None:
        super().__init__(model, fingerprint)
        self._tells = logprobs

    def begun(self, count: int) -> Iterator[Json]:
        """Yield who speaks, for each answer."""
        for index in range(count):
            part = {"delta": {"role": "assistant", "content": ""}, "logprobs": None}
            yield self._chunk(index, part, None)

    def _choice(self, text: str, tokens: list[Json]) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(tokens)}

    def _part(self, event: Mapping[str, Any]) -> Json:
        return {
            "delta": {"content": event["text"]},
            "logprobs": self._logprobs(event["tokens"]),
        }

    def _last(self) -> Json:
        return {"delta": {}, "logprobs": None}

    def _logprobs(self, tokens: list[Json]) -> Json | None:
        """Return the likelihoods of the tokens of the text."""
        if not self._tells:
            return None
        content = [
            _with_bytes(token["text"], token["nats"])
            | {"top_logprobs": [_with_bytes(text, nats) for text, nats in token["top"]]}
            for token in tokens
            if not token["is_end"]
        ]
        return {"content": content, "refusal": None}


def _with_bytes(text: str, nats: float) -> Json:
    """Return a token as conversations have it; what is a part of a character has no bytes."""
    is_whole = bool(text) and "\N{REPLACEMENT CHARACTER}" not in text
    return {"token": text, "logprob": nats, "bytes": list(text.encode()) if is_whole else None}
