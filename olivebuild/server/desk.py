"""Requests in line for the model process, which answers one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from olivebuild.core.errors import BuildError, StepError, first_line
from olivebuild.executors.model_process import LAST, Talker
from olivebuild.server.errors import ApiError

Event = dict[str, Any]
RETRY = {"Retry-After": "1"}


class Job:
    """A request in line, and what is said of it."""

    def __init__(self, question: dict[str, Any]) -> None:
        self.question = question
        self.has_left = False
        """Nobody waits for the answer any more."""
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """Return the next event."""
        return await self._events.get()

    def tell(self, event: Event) -> None:
        """Hand an event on, from any thread."""
        with contextlib.suppress(RuntimeError):
            # The loop is closed where the server has ended meanwhile.
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Desk:
    """The line in front of a model process.

    `most` requests may be in it, the one that is answered included. `on_end` is called, from
    another thread, when the process has ended by itself; then `error` says why.
    """

    def __init__(self, talker: Talker, most: int, on_end: Callable[[], None]) -> None:
        self.error: BuildError | None = None
        self._talker, self._most, self._on_end = talker, most, on_end
        self._line: deque[Job] = deque()
        self._current: Job | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True, name="desk").start()
        threading.Thread(target=self._mind, daemon=True, name="process").start()

    def join(self, question: dict[str, Any]) -> Job:
        """Return a request in line. Raises ApiError where the line is full or closed."""
        with self._changed:
            if self._is_closed:
                raise ApiError(503, "the server is ending", code="ending")
            if len(self._line) + (self._current is not None) >= self._most:
                fact = f"{self._most} requests wait already: try again"
                raise ApiError(503, fact, code="busy", headers=RETRY)
            job = Job(question)
            self._line.append(job)
            self._changed.notify()
        return job

    def leave(self, job: Job) -> None:
        """Answer a request no further; it may have been answered."""
        with self._changed:
            job.has_left = True
            with contextlib.suppress(ValueError):
                self._line.remove(job)
            if self._current is job:
                self._talker.stop()

    def close(self) -> None:
        """Take no more requests, and tell those that wait so; the one that is answered goes on."""
        with self._changed:
            self._is_closed = True
        self._send_away()

    def _send_away(self) -> None:
        """Tell those that wait that nobody is answered any more."""
        with self._changed:
            waiting = list(self._line)
            self._line.clear()
        for job in waiting:
            job.tell({"event": "closed"})

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line)
                job = self._current = self._line.popleft()
            try:
                self._answer(job)
            except BuildError as e:
                error = e
            except Exception as e:  # noqa: BLE001
                # Without this thread all requests would wait for ever.
                traceback.print_exc()
                fact = f"{type(e).__name__} in the server: {first_line(e)}"
                error = StepError(fact, hint="this is a fault of olivebuild's: please report it")
            else:
                continue
            self._fail(error)
            job.tell({"event": "failed", "fact": error.fact, "hint": ""})
            return

    def _mind(self) -> None:
        """Notice the end of the process also while nobody asks."""
        self._fail(self._talker.wait())

    def _fail(self, error: BuildError) -> None:
        """End, unless the server has ended first."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed, self.error = True, error
        self._send_away()
        self._on_end()

    def _answer(self, job: Job) -> None:
        """Ask the process, and hand on what it says."""
        for event in self._talker.events(**job.question):
            if event["event"] in LAST:
                with self._changed:
                    # Who is told the end may ask the next at once.
                    self._current = None
            elif job.has_left:
                self._talker.stop()
            if not job.has_left:
                job.tell(event)
