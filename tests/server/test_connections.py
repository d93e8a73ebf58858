"""Connections that ask nothing, at a real server."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from olivebuild.core.errors import StepError
from olivebuild.executors.model_process import Talker
from olivebuild.server import connections, run
from tests.server.test_desk import Process

HALF = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"


class Answering(Process):
    """A process that is asked by a server, and answers nothing when it is let."""

    def events(self, **question: Any) -> Iterator[dict[str, Any]]:
        yield {"event": "begun", "prompt_tokens": 1}
        assert self.go_on.wait(10)
        yield {"event": "end"}


@pytest.fixture
def process() -> Answering:
    return Answering()


@pytest.fixture
def port(process: Answering, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that lets three connect, and waits a quarter of a second."""
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.25)
    options = run.Options(host="127.0.0.1", key="", queue=3, most_tokens=100)
    ended: list[BaseException] = []

    def serve() -> None:
        try:
            talker = cast("Talker", process)
            run.serve(bound, talker, {"base": None}, options, lambda *_: None)
        except StepError as e:
            ended.append(e)

    with run.listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=serve)
        run.take_connections(bound)
        thread.start()
        yield bound.getsockname()[1]
        process.go_on.set()
        process.end.set()
        thread.join(10)
    assert len(ended) == 1


def is_closed(client: socket.socket) -> bool:
    """Return whether the server closes a connection within seconds."""
    client.settimeout(5)
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def connect(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 5)
    client.sendall(sent)
    return client


@pytest.mark.parametrize("sent", [b"", HALF])
def test_who_asks_nothing_is_not_waited_for(port: int, sent: bytes) -> None:
    with connect(port, sent) as client:
        assert is_closed(client)


def test_half_of_a_second_request_is_not_waited_for(port: int) -> None:
    with connect(port, HALF + b"\r\n") as client:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert json.loads(answer.read()) == {"status": "ok"}
        client.sendall(HALF)
        assert is_closed(client)


def test_who_waits_longest_gives_way(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60.0)
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(port)) for _ in range(3)]
        with connect(port, HALF + b"\r\n") as client:
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 200
            assert is_closed(silent[0])


def test_who_is_answered_does_not_give_way(
    port: int, process: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 1)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = json.dumps({"model": "base", "prompt": "a", "stream": True})
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = client.getresponse()
        assert answer.status == 200
        with connect(port) as other:
            assert is_closed(other)
        # Longer than a head may take.
        time.sleep(0.4)
        process.go_on.set()
        assert b"[DONE]" in answer.read()
    finally:
        client.close()
