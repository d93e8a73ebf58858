"""What the model process says to what a server asks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.ml.data.tokens import Encoder
from olivebuild.ml.inference.predict import Form
from olivebuild.ml.inference.serving.process import Served, serve
from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime

Events = list[dict[str, Any]]
TURN = {"role": "user", "content": "I am glad"}


class NoMoreRequests(BaseException):
    """All that was to be asked was asked."""


class Asked:
    """Requests of a test."""

    def __init__(self, requests: list[dict[str, Any]], stopped: int) -> None:
        self.stopped = stopped
        self._requests = iter(requests)

    def next(self) -> dict[str, Any]:
        for request in self._requests:
            return request
        raise NoMoreRequests


@pytest.fixture(scope="module")
def served(tiny_model: Path) -> Served:
    runtime = HuggingFaceRuntime(tiny_model, False)
    encoder = Encoder(runtime.tokenizer, ends=runtime.ends)
    return Served(runtime=runtime, encoder=encoder, form=None, context=32)


def asked(model: Served, *requests: dict[str, Any], stopped: int = -1) -> Events:
    """Return what is said to requests, without what it begins with."""
    settings: dict[str, Any] = {
        "model": "m",
        "n": 1,
        "max_tokens": 2,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 0,
        "stops": [],
        "logprobs": None,
        "echo": False,
    }
    numbered = [settings | {"ask": i} | request for i, request in enumerate(requests)]
    said: Events = []

    def say(event: str, **data: object) -> None:
        said.append({"event": event, **data})

    with pytest.raises(NoMoreRequests):
        serve({"m": model}, Asked(numbered, stopped), say, most_tokens=3)
    first, *rest = said
    assert first["event"] == "ready"
    return rest


def names(events: Events) -> list[str]:
    return [event["event"] for event in events if event["event"] != "text"]


def test_each_choice_is_told_and_ended(served: Served) -> None:
    said = asked(served, {"prompts": ["a", [20, 21]], "n": 2}, {"messages": [TURN]})
    assert names(said) == ["begun", *["choice"] * 4, "end", "begun", "choice", "end"]
    assert said[0]["prompt_tokens"] == 3
    assert [e["choice"] for e in said if e["event"] == "choice"] == [0, 1, 2, 3, 0]


def test_an_answer_without_a_limit_has_the_servers(served: Served) -> None:
    said = asked(served, {"messages": [TURN], "max_tokens": None})
    (choice,) = [e for e in said if e["event"] == "choice"]
    assert choice["written"] <= 3


@pytest.mark.parametrize(
    ("request_", "fact"),
    [
        ({"prompts": [""]}, "empty"),
        ({"prompts": [[10**6]]}, "no token"),
        ({"prompts": [[-1]]}, "no token"),
        ({"prompts": [[20] * 32]}, "takes 32"),
        ({"prompts": [[20] * 33], "max_tokens": 0, "echo": True}, "takes 32"),
    ],
)
def test_what_can_not_be_asked_is_refused_and_the_next_is_answered(
    served: Served, request_: dict[str, Any], fact: str
) -> None:
    said = asked(served, request_, {"prompts": ["a"]})
    assert names(said) == ["refused", "begun", "choice", "end"]
    assert fact in said[0]["fact"]
    # Where nothing is to be written, the prompt may fill the context.
    assert names(asked(served, {"prompts": [[20] * 32], "max_tokens": 0, "echo": True}))[0] == (
        "begun"
    )


def test_a_form_takes_one_message(served: Served) -> None:
    form = Form("tone", "prompt", "Q: {phrase}")
    model = Served(runtime=served.runtime, encoder=served.encoder, form=form, context=None)
    said = asked(model, {"messages": [TURN]}, {"messages": [TURN, TURN]})
    assert names(said) == ["begun", "choice", "end", "refused"]
    assert "one text at a time" in said[-1]["fact"]


def test_who_has_left_is_answered_no_further(served: Served) -> None:
    said = asked(served, {"prompts": ["a"] * 9}, stopped=0)
    assert names(said) == ["begun", "end"]


def test_a_failure_ends_no_server(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    said = asked(served, {"prompts": [None]}, {"prompts": ["a"]})
    assert names(said) == ["failed", "begun", "choice", "end"]
    assert "Traceback" in capsys.readouterr().err
