"""A server from its socket to its end."""

from __future__ import annotations

import errno
import logging
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType

import uvicorn

from olivebuild.core.errors import InputError
from olivebuild.executors.model_process import Talker
from olivebuild.server.app import Log, Service, application
from olivebuild.server.connections import Connection
from olivebuild.server.desk import Desk
from olivebuild.server.guard import Guard, is_loopback

END_SECONDS = 5
"""The time that answers have when the server is told to end."""
BACKLOG = 128
MOST_HEADER_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where a server listens, what it asks for, and its limits.

    `key`: what each request must carry, "" for none. `queue`: requests that may wait, the one that
    is answered included.
    """

    host: str
    key: str
    queue: int
    most_tokens: int


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, which takes no connection yet. Raises InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform == "win32":
        # There the other option lets another program take the port over.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as e:
        bound.close()
        raise _not_to_be_had(host, port, e) from None
    return bound


def take_connections(bound: socket.socket) -> None:
    """Let clients connect.

    Raises InputError where another program, which had bound the address too, does so already.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as e:
        host, port = bound.getsockname()[:2]
        raise _not_to_be_had(host, port, e) from None


def _not_to_be_had(host: str, port: int, error: OSError) -> InputError:
    why = "in use" if error.errno == errno.EADDRINUSE else f"not to be had: {error.strerror}"
    return InputError(
        f"port {port} of {host} is {why}", where="--port", hint="--port 0 takes one that is free"
    )


def url_of(bound: socket.socket) -> str:
    """Return the address that clients take as their base."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


class _Server(uvicorn.Server):
    """A server that takes no more requests from the moment when it is told to end."""

    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        # It ends without being raised again: that is how a server ends.
        self._captured_signals.clear()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_exit()
        await super().shutdown(sockets)


def serve(
    bound: socket.socket,
    talker: Talker,
    models: Mapping[str, str | None],
    options: Options,
    log: Log,
) -> None:
    """Answer requests until SIGINT or SIGTERM. Raises BuildError where the model process ends."""
    take_connections(bound)
    # What goes wrong is told to clients, and by us.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    def end() -> None:
        server.should_exit = True

    desk = Desk(talker, options.queue, end)
    service = Service(
        desk=desk, models=models, most_tokens=options.most_tokens, since=int(time.time())
    )
    guard = Guard(key=options.key, is_local=is_loopback(options.host))
    config = uvicorn.Config(
        application(service, guard, log),
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # Nothing stands between clients and this that may say who they are.
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_graceful_shutdown=END_SECONDS,
    )
    server = _Server(config, desk.close)
    server.run(sockets=[bound])
    if desk.error:
        raise desk.error
