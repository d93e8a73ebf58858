"""Requests in OpenAI's form -> what the model process is asked.

A parameter that would change an answer and that nothing here heeds is refused, and so is one that
is not known.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from olivebuild.core.values.typed import decode
from olivebuild.server.errors import ApiError

MOST_CHOICES = 256
"""The most answers to one request."""
MOST_STOPS = 32
MOST_TOP = 20
"""The most likeliest tokens that are told of each place."""
COMPLETION_TOKENS = 16
"""The tokens of a completion for which a request names no number, as OpenAI has it."""

T = TypeVar("T")
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Top = Annotated[int, Meta(ge=0, le=MOST_TOP)]
Count = Annotated[int, Meta(ge=0)]
Stop = Annotated[str, Meta(min_length=1, max_length=1000)]


class StreamOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(Struct, frozen=True, kw_only=True):
    """The form of an answer, of which there is one."""

    type: Literal["text"]


class Part(Struct, frozen=True, kw_only=True):
    """A part of a message, of which texts can be read."""

    type: Literal["text"]
    text: str


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]
    name: None = None
    refusal: None = None
    audio: None = None
    tool_calls: Annotated[list[Any], Meta(max_length=0)] | None = None
    function_call: None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None

    def to_json(self) -> dict[str, str]:
        """Return the turn as a chat template takes it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": self.role, "content": text}


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both kinds of requests may have."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MOST_STOPS)] | None = None
    # Not heeded, and so only as what changes nothing.
    presence_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=0)] | None = None
    # Let through, since they change no answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None

    def asked(self) -> dict[str, Any]:
        """Return the settings of the answers, as the model process takes them."""
        stop = self.stop
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "n": self.n or 1,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            # Of negative ones the bits.
            "seed": secrets.randbits(63) if self.seed is None else self.seed % 2**64,
            "stops": [stop] if isinstance(stop, str) else stop or [],
        }

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Completion(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to go on with texts."""

    prompt: Any
    echo: bool | None = None
    logprobs: Top | None = None
    best_of: int | None = None
    suffix: Annotated[str, Meta(max_length=0)] | None = None

    def asked(self) -> dict[str, Any]:
        """Return what the model process is asked. Raises ApiError."""
        prompts = prompts_of(self.prompt)
        n = self.n or 1
        if self.best_of not in (None, n):
            raise ApiError(400, "best_of is not heeded here: leave it out", param="best_of")
        _check_choices(len(prompts) * n, "prompt" if n == 1 else "n")
        wanted = Request.asked(self)
        if wanted["max_tokens"] is None:
            wanted["max_tokens"] = COMPLETION_TOKENS
        if not (wanted["max_tokens"] or self.echo):
            raise ApiError(400, "max_tokens is 0, and nothing is echoed", param="max_tokens")
        return wanted | {"prompts": prompts, "echo": bool(self.echo), "logprobs": self.logprobs}


class Chat(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a conversation's next turn."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Meta(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Any = None

    def asked(self) -> dict[str, Any]:
        """Return what the model process is asked. Raises ApiError."""
        _check_choices(self.n or 1, "n")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            fact = "max_tokens and max_completion_tokens differ: leave one out"
            raise ApiError(400, fact, param="max_tokens")
        return Request.asked(self) | {
            "messages": [message.to_json() for message in self.messages],
            "max_tokens": next(iter(limits), None),
            "echo": False,
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
        }


def read(body: bytes, kind: type[T]) -> T:
    """Return the request in a body. Raises ApiError."""
    try:
        return decode(body, kind)
    except msgspec.ValidationError as e:
        raise ApiError(400, str(e), param=_param_of(str(e))) from None
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as e:
        raise ApiError(400, f"the body is not JSON: {e}") from None


def _param_of(text: str) -> str | None:
    """Return the parameter that an error of msgspec is about: "... - at `$.max_tokens`"."""
    _, at, place = text.rpartition(" - at `$.")
    return place.rstrip("`") if at else None


def prompts_of(prompt: object) -> list[str | list[int]]:
    """Return the prompts of a request: one or several, each a text or tokens. Raises ApiError."""
    prompts: list[Any] = (
        prompt if isinstance(prompt, list) and not _are_tokens(prompt) else [prompt]
    )
    if prompts and (all(isinstance(p, str) for p in prompts) or all(map(_are_tokens, prompts))):
        return prompts
    raise ApiError(
        400, "prompt is a text, a list of texts, or one or more lists of tokens", param="prompt"
    )


def _are_tokens(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    )


def _check_choices(count: int, param: str) -> None:
    """Raise ApiError for more answers than one request may have."""
    if count > MOST_CHOICES:
        fact = f"{count} answers are asked for at once, and there may be {MOST_CHOICES}"
        raise ApiError(400, fact, param=param)
