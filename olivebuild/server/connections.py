"""Connections of a server: how many there may be, and how long one may keep a server waiting.

uvicorn sets a time to the pause after an answer alone. Who connects and says nothing, or half of a
request's head, would keep a connection for ever, and others out.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
HEAD_SECONDS = 30.0
"""The time in which the head of a request must come, from the connection or from its first byte."""


class Connection(H11Protocol):
    """A connection that is closed where a request's head does not come in time.

    Where there are too many, that which has waited longest for a request gives way to a new one. A
    new one is closed where all others are being answered.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _waits_since = 0.0
    """The loop's time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) > MOST_CONNECTIONS:
            everyone = cast("set[Connection]", self.connections)
            waiting = [other for other in everyone if other.waits and other is not self]
            given_up = min(waiting, key=lambda other: other._waits_since, default=self)
            given_up._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.waits and self._head_timer is None and not self.transport.is_closing():
            # Half of the next head: uvicorn has ended the pause.
            self._wait_for_head()
        elif not self.waits:
            self._stop_timer()

    def on_response_complete(self) -> None:
        self._waits_since = self.loop.time()
        super().on_response_complete()

    @property
    def waits(self) -> bool:
        """Whether no request is being answered: the next one's head has not come."""
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._waits_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close(self) -> None:
        self._stop_timer()
        if self.waits:
            self.connections.discard(self)
            # Who does not read would keep what is still to be sent.
            self.transport.abort()
