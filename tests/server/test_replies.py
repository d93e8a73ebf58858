"""Events of the model process in OpenAI's form."""

from __future__ import annotations

from typing import Any

from olivebuild.server.replies import ChatReply, CompletionReply, Reply


def token(text: str, nats: float | None, *top: tuple[str, float], end: bool = False) -> Any:
    return {"text": text, "nats": nats, "top": list(top), "is_end": end}


EVENTS: list[dict[str, Any]] = [
    {"event": "begun", "prompt_tokens": 4},
    {"event": "text", "choice": 0, "text": "ab", "tokens": [token("ab", None)]},
    {
        "event": "text",
        "choice": 0,
        "text": "é",
        "tokens": [token("é", -1.0, ("�", -0.5), ("�", -0.75)), token("", -2.0, end=True)],
    },
    {"event": "choice", "choice": 0, "reason": "stop", "written": 2},
    {"event": "choice", "choice": 1, "reason": "length", "written": 0},
]


def taken(reply: Reply) -> dict[str, Any]:
    for event in EVENTS:
        reply.take(event)
    return reply.whole()


def test_a_completion_tells_its_end_and_the_likeliest_of_tokens_that_look_alike() -> None:
    whole = taken(CompletionReply("m", "fp", logprobs=True))
    first, second = whole["choices"]
    assert (first["text"], first["finish_reason"]) == ("abé", "stop")
    assert first["logprobs"] == {
        "tokens": ["ab", "é", ""],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"�": -0.5, "é": -1.0}, {"": -2.0}],
        "text_offset": [0, 2, 3],
    }
    assert (second["text"], second["finish_reason"]) == ("", "length")
    assert whole["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def test_a_conversation_tells_bytes_of_whole_characters_and_not_its_end() -> None:
    (first, _) = taken(ChatReply("m", "fp", logprobs=True))["choices"]
    assert first["message"] == {"role": "assistant", "content": "abé", "refusal": None}
    content = first["logprobs"]["content"]
    assert [one["token"] for one in content] == ["ab", "é"]
    assert content[1]["bytes"] == [195, 169]
    assert content[1]["top_logprobs"][0] == {"token": "�", "logprob": -0.5, "bytes": None}
    assert taken(ChatReply("m", "fp", logprobs=False))["choices"][0]["logprobs"] is None


def test_a_stream_says_what_the_whole_says() -> None:
    reply = CompletionReply("m", "fp", logprobs=True)
    chunks: list[Any] = []
    for event in EVENTS:
        reply.take(event)
        chunks += reply.streamed(event)
    parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == 0]
    assert "".join(part["text"] for part in parts) == "abé"
    offsets = [o for part in parts if part["logprobs"] for o in part["logprobs"]["text_offset"]]
    assert offsets == [0, 2, 3]
    assert [part["finish_reason"] for part in parts] == [None, None, "stop"]
    assert reply.counted()["usage"] == reply.whole()["usage"]
    assert {chunk["id"] for chunk in chunks} == {reply.whole()["id"]}

    chat = ChatReply("m", "fp", logprobs=False)
    begun = list(chat.begun(2))
    assert [c["choices"][0]["delta"]["role"] for c in begun] == ["assistant", "assistant"]
