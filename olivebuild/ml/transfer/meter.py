"""How many bytes are on their way, told to whom waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

EVERY = 0.1
"""Seconds between two messages, at least."""


class Meter:
    """Counts bytes of one way, `fetching` or `uploading`. Threads may call it at once.

    It tells at most ten times a second. Its messages are `{"way", "done", "total", "ended"}`:
    bytes so far, of those that are expected, and how many objects have arrived.
    """

    def __init__(self, way: str, say: Callable[[dict[str, Any]], None]) -> None:
        self._way, self._say = way, say
        self._done = self._total = self._ended = 0
        self._last = self._counts()
        self._told = 0.0
        self._lock = threading.Lock()

    def expect(self, count: int) -> None:
        """Count bytes that are to be moved."""
        with self._lock:
            self._total += count

    def moved(self, count: int) -> None:
        """Count bytes that are on their way; fewer than none for those that are moved again."""
        with self._lock:
            self._done += count
            self._tell(time.monotonic() - self._told >= EVERY)

    def ended(self) -> None:
        """Count an object that has arrived."""
        with self._lock:
            self._ended += 1
            self._tell(time.monotonic() - self._told >= EVERY)

    def flush(self) -> None:
        """Tell what was not told yet."""
        with self._lock:
            self._tell(self._counts() != self._last)

    def _counts(self) -> tuple[int, int, int]:
        return self._done, self._total, self._ended

    def _tell(self, now: bool) -> None:
        if now:
            self._told, self._last = time.monotonic(), self._counts()
            names = ("done", "total", "ended")
            self._say({"way": self._way, **dict(zip(names, self._last, strict=True))})
