"""The process that talks to a remote cache (ml/transfer/process.py), and what it answers.

Requests and answers are JSON lines. A remote that falls silent is asked no more.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from msgspec import Struct

from olivebuild.core.processes import python

TIMEOUT = "OLIVEBUILD_REMOTE_TIMEOUT"
SECONDS = 20.0
"""How long the remote may be silent while a build waits for it."""
MODULE = "olivebuild.ml.transfer.process"


class Transfer(Struct, frozen=True, kw_only=True):
    """How a request for one key ended."""

    key: str
    hit: bool = False
    put: bool = False
    bytes: int = 0
    error: str = ""


class TransferProcess:
    """Talks to the remote cache at `url` for the store in `cache`.

    `give_up` is called once, with the reason, when it is asked no more.
    """

    def __init__(self, url: str, cache: str, give_up: Callable[[str], None]) -> None:
        self.fault = ""
        """Why it is not asked any more; "" while it is."""
        self.uploads: list[Transfer] = []
        """Those that have ended."""
        self._words = (url, cache)
        self._tell = give_up
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._pending: set[str] = set()
        self._number = 0
        self._patience = float(os.environ.get(TIMEOUT) or SECONDS)

    def ask(self, op: str, keys: Iterable[str]) -> list[Transfer]:
        """Return the answers for all keys; fewer where the remote fell silent."""
        keys = list(keys)
        ident = self._send(op, keys)
        answers: list[Transfer] = []
        deadline = time.monotonic() + self._patience
        while not self.fault and len(answers) < len(keys):
            message = self._next(deadline)
            if message is None:
                break
            deadline = time.monotonic() + self._patience
            if message.get("id") == ident:
                answers.append(_transfer(message))
        return answers

    def upload(self, keys: Iterable[str]) -> None:
        """Begin to upload results, which `wait` waits for."""
        keys = [key for key in keys if key not in self._pending]
        if keys and not self.fault:
            self._pending |= set(keys)
            self._send("put", keys)

    def wait(self) -> None:
        """Wait until all uploads have ended."""
        while self._pending and not self.fault:
            self._next(time.monotonic() + self._patience)

    def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(0.0 if self.fault or self._pending else 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _send(self, op: str, keys: list[str]) -> int:
        self._number += 1
        process = self._started()
        if process and process.stdin:
            request = {"id": self._number, "op": op, "keys": keys}
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            except OSError:
                self._give_up("its process has ended")
        return self._number

    def _started(self) -> subprocess.Popen[str] | None:
        if self._process is None and not self.fault:
            self._process = subprocess.Popen(
                python("-m", MODULE, *self._words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                # Ctrl-C is the build's, which ends it.
                start_new_session=True,
            )
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self._process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            with suppress(ValueError):
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def _next(self, deadline: float) -> dict[str, Any] | None:
        """Return the next message, after a note of it if an upload has ended.

        None, and no more is asked, where there is none before the deadline.
        """
        try:
            message = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self._give_up(f"it has not answered for {self._patience:g} s")
            return None
        if message is None:
            self._give_up("its process has ended")
            return None
        if fault := message.get("fault"):
            self._give_up(f"{fault}: {message.get('hint', '')}".rstrip(": "))
            return None
        if message.get("op") == "put":
            self._pending.discard(message["key"])
            self.uploads.append(_transfer(message))
        return message

    def _give_up(self, why: str) -> None:
        if not self.fault:
            self.fault = why[:300]
            self._tell(self.fault)


def _transfer(message: dict[str, Any]) -> Transfer:
    return Transfer(
        key=str(message["key"]),
        hit=bool(message.get("hit")),
        put=bool(message.get("put")),
        bytes=int(message.get("bytes") or 0),
        error=str(message.get("error") or ""),
    )
