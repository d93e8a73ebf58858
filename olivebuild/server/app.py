"""The application: OpenAI's paths, in front of a model process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from olivebuild.server import guard, requests
from olivebuild.server.desk import Desk, Event, Job
from olivebuild.server.errors import ApiError, Left, of_event
from olivebuild.server.replies import ChatReply, CompletionReply, Reply

LEFT = 499
"""The status of a request whose client went away, as nginx has it. Nobody reads it."""
MOST_DISCARDED, DISCARD_SECONDS = 64 << 20, 2.0
"""What is read of a body that is not wanted."""
Log = Callable[[str, str, int, float], None]
"""Is told of each request: method, path, status, seconds."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What is served: models by name, each with a fingerprint, and the most tokens of an answer.

    A fingerprint is None where it is not known.
    """

    desk: Desk
    models: Mapping[str, str | None]
    most_tokens: int
    since: int

    def check(self, request: requests.Request, asked: Mapping[str, Any]) -> None:
        """Raise ApiError for a model that there is not, and for too long an answer."""
        self.model(request.model)
        count = asked["max_tokens"]
        if count is not None and count > self.most_tokens:
            fact = f"an answer may have {self.most_tokens} tokens (--max-tokens), not {count}"
            raise ApiError(400, fact, param="max_tokens")

    def model(self, name: str) -> dict[str, Any]:
        """Return a model as OpenAI lists it. Raises ApiError where there is none of that name."""
        if name not in self.models:
            fact = f"there is no model {name[:100]!r} here, but {', '.join(self.models)}"
            raise ApiError(404, fact, param="model", code="model_not_found")
        return {"id": name, "object": "model", "created": self.since, "owned_by": "olivebuild"}


def application(service: Service, guard_: guard.Guard, log: Log) -> ASGIApp:
    """Return the application, of which each request passes the guard first."""

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [*map(service.model, service.models)]})

    async def model(request: Request) -> Response:
        return JSONResponse(service.model(request.path_params["name"]))

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def completions(request: Request) -> Response:
        asked = requests.read(await _body(request), requests.Completion)
        question = asked.asked()
        service.check(asked, question)
        reply = CompletionReply(
            asked.model, service.models[asked.model], logprobs=asked.logprobs is not None
        )
        return await _respond(service, request, asked, question, reply)

    async def chat(request: Request) -> Response:
        asked = requests.read(await _body(request), requests.Chat)
        question = asked.asked()
        service.check(asked, question)
        reply = ChatReply(asked.model, service.models[asked.model], logprobs=bool(asked.logprobs))
        return await _respond(service, request, asked, question, reply)

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        exception_handlers={
            ApiError: _refused,
            HTTPException: _unknown,
            Left: _gone,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False
    return _Watched(app, guard_, log)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.to_json(), error.status, error.headers)


def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    fact = f"there is no {request.method} {request.url.path[:100]} here"
    return JSONResponse(ApiError(error.status_code, fact).to_json(), error.status_code)


def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=LEFT)


def _failed(_: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return JSONResponse(ApiError(500, f"{type(error).__name__} in the server").to_json(), 500)


class _Watched:
    """An application whose requests pass the guard, and are told to the log."""

    def __init__(self, app: ASGIApp, guard_: guard.Guard, log: Log) -> None:
        self._app, self._guard, self._log = app, guard_, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        start, status = time.monotonic(), LEFT

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            request = Request(scope)
            try:
                self._guard.check(request.headers)
                if request.method == "POST":
                    guard.check_kind(request.headers)
                    guard.check_size(request.headers)
            except ApiError as e:
                await _discard(receive)
                # What is left of it is not read, so the connection can't go on.
                e.headers["Connection"] = "close"
                await _refused(request, e)(scope, receive, noted)
                return
            await self._app(scope, receive, noted)
        finally:
            seconds = time.monotonic() - start
            self._log(scope["method"], scope["path"], status, seconds)


async def _discard(receive: Receive) -> None:
    """Read a body that is not wanted, up to a limit.

    Who still sends it would not see the answer.
    """
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while size < MOST_DISCARDED:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def _body(request: Request) -> bytes:
    """Return the body of a request. Raises ApiError for one too large, or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(guard.BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > guard.MOST_BYTES:
                    await _discard(request.receive)
                    error = guard.too_large()
                    error.headers["Connection"] = "close"
                    raise error
    except TimeoutError:
        fact = f"the body did not come within {guard.BODY_SECONDS:.0f} s"
        raise ApiError(408, fact, headers={"Connection": "close"}) from None
    return bytes(body)


async def _respond(
    service: Service,
    request: Request,
    asked: requests.Request,
    question: dict[str, Any],
    reply: Reply,
) -> Response:
    """Return the answer to a request, or the stream of it.

    Raises ApiError for what the model process refuses, and Left where the client goes away.
    """
    job = service.desk.join(question)
    watch = asyncio.create_task(_watch(request.receive, service.desk, job))
    is_streamed = False
    try:
        event = await _next(job)
        if asked.stream:
            reply.take(event)
            is_streamed = True
            return StreamingResponse(
                _stream(service.desk, job, reply, asked, watch), media_type="text/event-stream"
            )
        while event["event"] != "end":
            reply.take(event)
            event = await _next(job)
        return JSONResponse(reply.whole())
    finally:
        if not is_streamed:
            service.desk.leave(job)
            watch.cancel()


async def _watch(receive: Callable[[], Awaitable[Message]], desk: Desk, job: Job) -> None:
    """Leave the line when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    desk.leave(job)
    job.tell({"event": "left"})


async def _next(job: Job) -> Event:
    """Return the next event of an answer. Raises ApiError where there is none, and Left."""
    event = await job.next()
    if event["event"] in ("refused", "failed"):
        raise of_event(event)
    if event["event"] == "closed":
        raise ApiError(503, "the server is ending", code="ending")
    if event["event"] == "left":
        raise Left
    return event


async def _stream(
    desk: Desk, job: Job, reply: Reply, asked: requests.Request, watch: asyncio.Task[None]
) -> AsyncIterator[str]:
    """Yield an answer as server-sent events, as it comes."""
    try:
        for chunk in reply.begun(asked.n or 1):
            yield _sent(chunk)
        while (event := await _next(job))["event"] != "end":
            reply.take(event)
            for chunk in reply.streamed(event):
                yield _sent(chunk)
        if asked.tells_usage:
            yield _sent(reply.counted())
        yield "data: [DONE]\n\n"
    except ApiError as e:
        yield _sent(e.to_json())
    except Left:
        pass
    finally:
        desk.leave(job)
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


def _sent(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
