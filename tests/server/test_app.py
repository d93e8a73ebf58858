"""The application without a model: what comes before a request stands in line."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from olivebuild.server import app, guard
from olivebuild.server.app import Service, application
from olivebuild.server.desk import Desk
from olivebuild.server.guard import Guard

Log = list[tuple[str, str, int]]


def asked(
    method: str, path: str, *chunks: bytes, log: Log | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Return status and body of what a request gets; none of them comes to the desk."""
    service = Service(desk=cast("Desk", None), models={"m": "fp"}, most_tokens=9, since=1)
    lines: Log = log if log is not None else []
    application_ = application(
        service, Guard(key="", is_local=True), lambda m, p, s, _: lines.append((m, p, s))
    )
    fields = {"host": "localhost", "content-type": "application/json"} | headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in fields.items()],
    }
    parts = list(chunks)
    sent: list[Any] = []

    async def receive() -> Any:
        if not parts and chunks:
            # A body that does not end.
            await asyncio.sleep(60)
        body = parts.pop(0) if parts else b""
        return {"type": "http.request", "body": body, "more_body": body == b"..."}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        await application_(scope, receive, send)

    asyncio.run(run())
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


def test_models_are_listed_and_others_are_none() -> None:
    log: Log = []
    assert asked("GET", "/v1/models", log=log)[1]["data"] == [
        {"id": "m", "object": "model", "created": 1, "owned_by": "olivebuild"}
    ]
    assert asked("GET", "/v1/models/m")[0] == 200
    assert asked("GET", "/health")[1] == {"status": "ok"}
    for name in ("n", "../m", "m/../../etc", "%2e%2e"):
        status, body = asked("GET", f"/v1/models/{name}")
        assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert log == [("GET", "/v1/models", 200)]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/completions", 405), ("POST", "/v1/models", 405)],
)
def test_what_is_not_there_is_told_in_the_same_form(method: str, path: str, status: int) -> None:
    told, body = asked(method, path)
    assert told == status
    assert path in body["error"]["message"]


def test_a_refused_request_is_told_to_the_log() -> None:
    log: Log = []
    assert asked("GET", "/v1/models", log=log, host="evil.example")[0] == 403
    assert log == [("GET", "/v1/models", 403)]


def test_requests_are_checked_before_they_stand_in_line() -> None:
    body = {"model": "m", "prompt": "a", "max_tokens": 10}
    status, told = asked("POST", "/v1/completions", json.dumps(body).encode())
    assert (status, told["error"]["param"]) == (400, "max_tokens")
    status, told = asked("POST", "/v1/chat/completions", b'{"model": "m"}')
    assert (status, "messages" in told["error"]["message"]) == (400, True)


def test_a_body_too_large_or_too_slow_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_BYTES", 4)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(app, "DISCARD_SECONDS", 0.01)
    assert asked("POST", "/v1/completions", b"...", b"...")[0] == 413
    assert asked("POST", "/v1/completions", b"...")[0] == 408
    assert asked("POST", "/v1/completions", b"...", content_length="5")[0] == 413
