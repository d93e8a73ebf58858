"""Failures that a server on loopback can be told to have."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Handler(Protocol):
    """One request to a server that can fail."""

    command: str
    path: str
    close_connection: bool

    def answer_of(self) -> tuple[int, list[tuple[str, str]], bytes]: ...

    def send(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None: ...


Fault = Callable[[Handler], bool]
"""Returns whether it has answered the request."""


def status(code: int, times: int, method: str = "") -> Fault:
    """Return a fault: the first requests are answered with a status alone."""
    left = [times]

    def fault(handler: Handler) -> bool:
        if left[0] <= 0 or method not in ("", handler.command):
            return False
        left[0] -= 1
        handler.send(code, [], b"<Error>secret-in-an-answer</Error>" * (handler.command != "HEAD"))
        return True

    return fault


def broken_off(times: int) -> Fault:
    """Return a fault: the first answers with content end in the middle."""
    left = [times]

    def fault(handler: Handler) -> bool:
        if left[0] <= 0 or handler.command != "GET":
            return False
        code, headers, data = handler.answer_of()
        if code not in (200, 206) or len(data) < 1000:
            return False
        left[0] -= 1
        handler.send(code, headers, data[: len(data) // 2])
        handler.close_connection = True
        return True

    return fault


def slow(seconds: float) -> Fault:
    """Return a fault that is none: every answer takes its time."""

    def fault(_: Handler) -> bool:
        time.sleep(seconds)
        return False

    return fault
