"""A served model, asked by OpenAI's own client and by requests that are none of its."""

from __future__ import annotations

import http.client
import json
import math
import re
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.conftest import RECIPE, Place, rows, write_rows
from tests.support.serving import Served, serving

pytestmark = pytest.mark.scenario
PROMPT = "<|user|>\nI am glad about a letter today<|end|>\n<|assistant|>\n"
TURNS: list[Any] = [{"role": "user", "content": "I am glad about a letter today"}]
TOKENS = 12


@pytest.fixture(scope="module")
def recipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A recipe of which nothing need be built to serve its base."""
    root = tmp_path_factory.mktemp("served")
    place = Place(root / "work", root / "cache")
    shutil.copytree(tiny_model, place.folder / "tiny")
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(RECIPE)
    return place


@pytest.fixture(scope="module")
def served(recipe: Place) -> Iterator[Served]:
    with serving(recipe, "base", "--max-tokens", "200", "--queue", "3") as server:
        yield server
        assert server.end() == 0
    assert server.err[-1] == "ended\n"


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def post(served: Served, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Return status and body of what a request of one's own gets."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    try:
        fields = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request("POST", path, body, fields)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")
    finally:
        connection.close()


def greedy(folder: Path, prompt: str) -> tuple[str, list[float], list[float]]:
    """Return what transformers writes, and the log-likelihoods of that and of the prompt."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)
    with torch.inference_mode():
        shares = torch.log_softmax(model(out).logits[0].float(), -1)
    nats = shares[:-1].gather(1, out[0, 1:, None])[:, 0].tolist()
    start = ids.shape[1]
    return tokenizer.decode(out[0, start:]), nats[start - 1 :], nats[: start - 1]


def test_answers_and_likelihoods_are_those_of_transformers(
    client: openai.OpenAI, recipe: Place, one_thread: None
) -> None:
    text, written, before = greedy(recipe.folder / "tiny", PROMPT)
    asked = {"model": "base", "temperature": 0, "max_tokens": TOKENS}
    done = client.completions.create(prompt=PROMPT, logprobs=2, echo=True, **asked)  # type: ignore[call-overload]
    (choice,) = done.choices
    assert choice.text == PROMPT + text
    assert choice.logprobs.token_logprobs[0] is None
    nats = choice.logprobs.token_logprobs[1:]
    assert nats[: len(before)] == pytest.approx(before, abs=1e-3)
    assert nats[len(before) :][: len(written)] == pytest.approx(written, abs=1e-3)
    for one, top in zip(nats[len(before) :], choice.logprobs.top_logprobs[-TOKENS:], strict=False):
        assert one == max(top.values())
    turn = client.chat.completions.create(
        model="base",
        messages=TURNS,
        temperature=0,
        max_tokens=TOKENS,
        logprobs=True,
        top_logprobs=1,
    )
    assert turn.choices[0].message.content == text
    assert turn.usage
    assert turn.usage.completion_tokens == TOKENS
    assert turn.choices[0].logprobs
    assert turn.choices[0].logprobs.content
    ours = [one.logprob for one in turn.choices[0].logprobs.content]
    assert ours == pytest.approx(written, abs=1e-3)


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="base", messages=TURNS, max_tokens=TOKENS, seed=5, n=2, temperature=0.7, top_p=0.9
    )
    pieces = {0: "", 1: ""}
    usage = None
    for chunk in client.chat.completions.create(
        model="base",
        messages=TURNS,
        max_tokens=TOKENS,
        seed=5,
        n=2,
        temperature=0.7,
        top_p=0.9,
        stream=True,
        stream_options={"include_usage": True},
    ):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
        usage = chunk.usage or usage
    assert [pieces[0], pieces[1]] == [c.message.content for c in whole.choices]
    assert pieces[0] != pieces[1]
    assert usage == whole.usage


def test_several_prompts_and_tokens_and_stops(client: openai.OpenAI) -> None:
    one = client.completions.create(model="base", prompt=PROMPT, max_tokens=TOKENS, temperature=0)
    text = one.choices[0].text
    several = client.completions.create(
        model="base", prompt=[PROMPT, "I am"], max_tokens=TOKENS, temperature=0
    )
    assert [c.index for c in several.choices] == [0, 1]
    assert several.choices[0].text == text
    stop = text[2:4]
    cut = client.completions.create(
        model="base", prompt=PROMPT, max_tokens=TOKENS, temperature=0, stop=[stop, "never"]
    )
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    scored = client.completions.create(
        model="base", prompt=[[10, 11, 12]], max_tokens=0, echo=True, logprobs=0
    )
    assert scored.choices[0].logprobs
    assert len(scored.choices[0].logprobs.token_logprobs or []) == 3


def test_models_are_looked_up(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base"]
    assert client.models.retrieve("base").owned_by == "olivebuild"
    for name in ("tiny", "../tiny", "/etc/passwd", "base/", "BASE", "x" * 5000):
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model=name, prompt="a")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc/passwd")


def test_what_can_not_be_answered_is_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="takes 512") as caught:
        client.completions.create(model="base", prompt="a b " * 400)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="--max-tokens"):
        client.completions.create(model="base", prompt="a", max_tokens=201)
    with pytest.raises(openai.BadRequestError, match="no token 99999"):
        client.completions.create(model="base", prompt=[99999])
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.completions.create(model="base", prompt="")
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(
            model="base", messages=TURNS, tools=[{"type": "function", "function": {"name": "f"}}]
        )


BODY = json.dumps({"model": "base", "prompt": "a", "max_tokens": 1}).encode()


def test_pages_and_names_of_others_are_kept_out(served: Served) -> None:
    path = "/v1/completions"
    assert post(served, path, BODY)[0] == 200
    assert post(served, path, BODY, Host="evil.example")[0] == 403
    assert post(served, path, BODY, Origin="http://evil.example")[0] == 403
    assert post(served, path, BODY, Content_Type="text/plain")[0] == 415
    assert post(served, path, b"a" * (8 << 20) + BODY)[0] == 413
    status, body = post(served, "/v1/embeddings", BODY)
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")
    assert post(served, path + "/", BODY)[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("OPTIONS", path, headers={"Origin": "http://evil.example"})
    response = connection.getresponse()
    assert response.status == 403
    assert not [name for name, _ in response.getheaders() if "access-control" in name.lower()]
    connection.close()


def test_who_goes_away_keeps_nobody_waiting(served: Served, client: openai.OpenAI) -> None:
    long = {"model": "base", "prompt": ["a"] * 200, "max_tokens": 200, "temperature": 1.5}
    short: Any = {"model": "base", "prompt": "a", "max_tokens": 1}
    gone = []
    for _ in range(3):
        body = json.dumps(long).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
            f"\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", served.port))
        connection.sendall(head.encode() + body)
        gone.append(connection)
    # Until all three stand in line, which takes as many connections.
    with pytest.raises(openai.InternalServerError, match="wait already"):
        deque(iter(lambda: client.completions.create(**short), None), maxlen=0)
    for connection in gone:
        connection.close()
    # All three would take minutes.
    patient = client.with_options(max_retries=8)
    assert patient.completions.create(**short)


@pytest.mark.slow
def test_requests_are_told_and_the_end_is_orderly(recipe: Place) -> None:
    with serving(
        recipe, "base", "--host", "0.0.0.0", "--api-key", "sesame", "--data", "tone"
    ) as served:
        url = re.sub(r"//[^:]+", "//127.0.0.1", served.url)
        stranger = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
        with stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with openai.OpenAI(base_url=url, api_key="sesame", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="base",
                messages=TURNS,
                max_tokens=TOKENS,
                temperature=0,
                logprobs=True,
            )
            assert answer.choices[0].logprobs
            assert math.isfinite(sum(c.logprob for c in answer.choices[0].logprobs.content or []))
            with pytest.raises(openai.BadRequestError, match="one text at a time"):
                client.chat.completions.create(model="base", messages=TURNS * 2)
            stream = client.completions.create(
                model="base", prompt="a", max_tokens=2000, temperature=1.5, n=50, stream=True
            )
            next(iter(stream))
            start = time.monotonic()
            assert served.end(signal.SIGTERM) == 0
            # An answer in the making has five seconds.
            assert time.monotonic() - start < 12
    err = "".join(served.err)
    assert "GET /v1/models 401" in err
    assert "unencrypted" in err
    assert "template of tone" in err
    assert err.endswith("ended\n")
    assert "Traceback" not in err


SLOTS = """\
  slots: {kind: onnx, model: base, provider: cpu, block_size: 32, slots: all-linear}
  apart: {kind: onnx-adapter, base: slots, adapter: adapter}
"""


@pytest.mark.slow
def test_adapters_answer_by_their_names(copied: Place) -> None:
    copied.edit("{lr: 1e-3, steps: 4, batch: 4}", "{lr: 2e-2, steps: 20, batch: 8}")
    copied.recipe.write_text(copied.recipe.read_text() + SLOTS)
    with serving(copied, "slots", "--adapter", "apart", "--chat-template") as served:
        with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["slots", "apart"]
            texts = [
                client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=0)
                .choices[0]
                .text
                for name in ("slots", "apart", "slots", "apart")
            ]
            assert texts[:2] == texts[2:]
            assert texts[0] != texts[1]
            with pytest.raises(openai.NotFoundError):
                client.completions.create(model="adapter", prompt="a")
        assert served.end() == 0
    line = json.dumps({"prompt": PROMPT})
    copied.folder.joinpath("one.jsonl").write_text(line + "\n")
    alone = copied.run("predict", "apart", "--in", "one.jsonl", "--max-tokens", "8")
    assert json.loads(alone.out)["prediction"] == texts[1].strip()
    with (
        serving(copied, "apart", "--as-is") as served,
        openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client,
    ):
        assert "into the template of tone" in "".join(served.err)
        assert [model.id for model in client.models.list()] == ["apart"]
        answer = client.chat.completions.create(
            model="apart", messages=TURNS, max_tokens=8, temperature=0
        )
        assert answer.choices[0].message.content == texts[1]


@pytest.mark.slow
def test_a_model_process_that_is_gone_ends_the_server(recipe: Place) -> None:
    with serving(recipe, "base") as served:
        (worker,) = psutil.Process(served.process.pid).children()
        worker.kill()
        assert served.process.wait(20) == 1
    assert "the process that holds base ended" in "".join(served.err)
