"""Requests in OpenAI's form: what is read of them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olivebuild.server.errors import ApiError
from olivebuild.server.requests import Chat, Completion, prompts_of, read


def completion(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "prompt": "a"} | fields
    return read(json.dumps(body).encode(), Completion).asked()


def chat(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}]} | fields
    return read(json.dumps(body).encode(), Chat).asked()


def test_defaults_are_those_of_the_api() -> None:
    asked = completion(seed=3)
    assert asked == {
        "model": "m",
        "prompts": ["a"],
        "max_tokens": 16,
        "n": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 3,
        "stops": [],
        "echo": False,
        "logprobs": None,
    }
    asked = chat(seed=-1)
    assert asked["messages"] == [{"role": "user", "content": "a"}]
    assert (asked["max_tokens"], asked["logprobs"], asked["seed"]) == (None, None, 2**64 - 1)
    assert completion()["seed"] != completion()["seed"]


def test_what_changes_nothing_is_let_through() -> None:
    assert completion(
        user="me", best_of=1, suffix="", logit_bias={}, presence_penalty=0, stop=None, echo=None
    )
    assert chat(
        response_format={"type": "text"}, tools=[], tool_choice="none", parallel_tool_calls=True
    )


def test_parts_of_a_message_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "system", "content": parts}])["messages"] == [
        {"role": "system", "content": "ab"}
    ]


def test_likelihoods_are_asked_for_as_each_kind_has_it() -> None:
    assert completion(logprobs=5)["logprobs"] == 5
    assert completion(logprobs=0)["logprobs"] == 0
    assert chat(logprobs=True)["logprobs"] == 0
    assert chat(logprobs=True, top_logprobs=3)["logprobs"] == 3
    assert chat(logprobs=False)["logprobs"] is None
    assert completion(max_tokens=0, echo=True)["max_tokens"] == 0
    assert chat(max_completion_tokens=7)["max_tokens"] == 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 3),
        ("temperature", "hot"),
        ("top_p", 0),
        ("n", 0),
        ("n", 10**6),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 1e9),
        ("logprobs", 21),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["a"] * 33),
        ("seed", 2**64),
        ("suffix", "x"),
        ("best_of", 3),
        ("presence_penalty", 0.5),
        ("logit_bias", {"5": 1}),
        ("prompt", None),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", ["a", 1]),
        ("prompt", [1, True]),
        ("prompt", {"a": 1}),
        ("prompt", ["a"] * 257),
        ("model", None),
        ("top_k", 5),
    ],
)
def test_a_completion_that_can_not_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        completion(**{field: value})
    assert caught.value.status == 400
    assert field in json.dumps(caught.value.to_json())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", [{"role": "boss", "content": "a"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]),
        ("messages", [{"role": "user", "content": "a", "name": "Bob"}]),
        ("max_completion_tokens", 0),
        ("top_logprobs", 2),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("reasoning_effort", "high"),
    ],
)
def test_a_conversation_that_can_not_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{field: value})
    assert caught.value.status == 400
    assert field in json.dumps(caught.value.to_json())


def test_two_limits_that_differ_are_refused() -> None:
    assert chat(max_tokens=3, max_completion_tokens=3)["max_tokens"] == 3
    with pytest.raises(ApiError, match="differ"):
        chat(max_tokens=3, max_completion_tokens=4)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"model": "\\ud800", "prompt": "a"}', b"null"],
)
def test_a_body_that_can_not_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read(body, Completion)
    assert caught.value.status == 400


def test_prompts_are_texts_or_tokens() -> None:
    assert prompts_of("a") == ["a"]
    assert prompts_of(["a", "b"]) == ["a", "b"]
    assert prompts_of([1, 2]) == [[1, 2]]
    assert prompts_of([[1], [2]]) == [[1], [2]]
