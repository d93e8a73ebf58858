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
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import IO, Any

from msgspec import Struct, to_builtins

from olivebuild.cache.remote_records import StepPaths
from olivebuild.core.exit_reasons import end_of
from olivebuild.core.processes import python

TIMEOUT = "OLIVEBUILD_REMOTE_TIMEOUT"
SECONDS = 20.0
"""How long the remote may be silent while a build waits for it."""
UPLOAD_SECONDS = 3
"""How many times as long it may be silent while uploads are waited for.

Of an upload it is only seen when a part of some MiB has arrived.
"""
SLOWEST = 100_000
"""Bytes a second; a remote that brings less, and no whole object in all that time, is silent."""
MODULE = "olivebuild.ml.transfer.process"


class Transfer(Struct, frozen=True, kw_only=True):
    """How a request for one key ended."""

    key: str
    hit: bool = False
    put: bool = False
    bytes: int = 0
    error: str = ""
    lease: str = ""
    """What became of a lease: see Claims.lease in ml/transfer."""
    unkept: bool = False
    """Whether the store makes again what is there."""
    differs: str = ""
    """How the remote cache's result differs from the one that was to be uploaded."""


class _Patience:
    """The time until which something has to be heard."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_slow = False
        """Whether something was heard, and too little."""
        self._done = self._ended = 0
        self._renew()

    def _renew(self) -> None:
        self.deadline = time.monotonic() + self.seconds
        self.is_slow = False

    def heard(self, message: dict[str, Any]) -> None:
        """Wait anew, if a message says that things go on."""
        if "way" in message:
            done, ended = message["done"] - self._done, message["ended"] - self._ended
            if ended <= 0 and done < SLOWEST * self.seconds:
                self.is_slow = True
                return
            self._done, self._ended = message["done"], message["ended"]
        self._renew()

    def reason(self) -> str:
        """Return why there is none any more."""
        if self.is_slow:
            return f"it is slower than {SLOWEST // 1000} kB a second"
        return f"it has not answered for {self.seconds:g} s"


class TransferProcess:
    """Talks to the remote cache at `url` for the store in `cache`.

    `give_up` is called once, with the reason, when it is asked no more; `tell` with each message
    about how far bytes are (ml/transfer/meter.py), and with notes.
    """

    def __init__(
        self,
        url: str,
        cache: str,
        give_up: Callable[[str], None],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.fault = ""
        """Why it is not asked any more; "" while it is."""
        self.uploads: list[Transfer] = []
        """Those that have ended."""
        self._words = (url, cache)
        self._tell_fault, self._tell = give_up, tell
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.pending: set[str] = set()
        """Keys of results that are to be uploaded and have not arrived."""
        self._asked: set[str] = set()
        self._last_words = ""
        self._number = 0
        self._patience = float(os.environ.get(TIMEOUT) or SECONDS)

    def ask(
        self, op: str, keys: Iterable[str], paths: Mapping[str, StepPaths] | None = None
    ) -> list[Transfer]:
        """Return the answers for all keys; fewer where the remote fell silent.

        `paths` are those of the steps, by key, where signatures have to do with them.
        """
        keys = list(keys)
        ident = self._send(op, keys, paths)
        answers: list[Transfer] = []
        patience = _Patience(self._patience)
        while not self.fault and len(answers) < len(keys):
            message = self._next(patience)
            if message and message.get("id") == ident:
                answers.append(_transfer(message))
        return answers

    def exchange(self, op: str, key: str, **more: Any) -> dict[str, Any]:
        """Return the whole answer for one key; empty where the remote fell silent."""
        ident = self._send(op, [key], **more)
        patience = _Patience(self._patience)
        while not self.fault:
            message = self._next(patience)
            if message and message.get("id") == ident:
                return message
        return {}

    def upload(self, keys: Iterable[str], paths: Mapping[str, StepPaths]) -> None:
        """Begin to upload results, which `wait` waits for; each is uploaded once."""
        keys = [key for key in keys if key not in self._asked]
        self._asked.update(keys)
        self.pending.update(keys)
        if keys and not self.fault:
            self._send("put", keys, paths)

    def tell(self, op: str, keys: Iterable[str]) -> None:
        """Say something that nobody waits for, if there is a process."""
        if self._process and not self.fault:
            self._send(op, list(keys))

    def wait(self) -> None:
        """Wait until all uploads have ended."""
        patience = _Patience(self._patience * UPLOAD_SECONDS)
        while self.pending and not self.fault:
            self._next(patience)

    def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(0.0 if self.fault or self.pending else 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader:
            self._reader.join(1.0)

    def _send(
        self,
        op: str,
        keys: list[str],
        paths: Mapping[str, StepPaths] | None = None,
        **more: Any,
    ) -> int:
        self._number += 1
        if self.fault:
            return self._number
        process = self._started()
        if process and process.stdin:
            request: dict[str, Any] = {"id": self._number, "op": op, "keys": keys, **more}
            if paths:
                request["paths"] = to_builtins({key: paths[key] for key in keys})
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            except OSError:
                self._give_up(self._ended())
        return self._number

    def _started(self) -> subprocess.Popen[str] | None:
        if self._process is None and not self.fault:
            self._process = subprocess.Popen(
                python("-m", MODULE, *self._words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # Ctrl-C is the build's, which ends it.
                start_new_session=True,
            )
            self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
            self._reader.start()
        return self._process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        assert process.stderr
        errors = threading.Thread(target=self._listen, args=(process.stderr,), daemon=True)
        errors.start()
        try:
            with process.stdout as answers:
                for line in answers:
                    with suppress(ValueError):
                        self._answers.put(json.loads(line))
        finally:
            errors.join(1.0)
            self._answers.put(None)

    def _listen(self, errors: IO[str]) -> None:
        with errors:
            for line in errors:
                self._last_words = line.strip()[:200] or self._last_words

    def _next(self, patience: _Patience) -> dict[str, Any] | None:
        """Return the next message, after a note of it if an upload has ended.

        None, and no more is asked, where there is none in time.
        """
        try:
            message = self._answers.get(timeout=max(0.0, patience.deadline - time.monotonic()))
        except queue.Empty:
            self._give_up(patience.reason())
            return None
        if message is None:
            self._give_up(self._ended())
            return None
        if message.get("fault"):
            self._give_up(_fault(message))
            return None
        patience.heard(message)
        if message.get("offline"):
            self._give_up(_fault(message))
        if "way" in message or "note" in message:
            self._tell(message)
        self._note_upload(message)
        return message

    def _note_upload(self, message: Mapping[str, Any]) -> None:
        if message.get("op") == "put":
            self.pending.discard(message["key"])
            self.uploads.append(_transfer(message))

    def _ended(self) -> str:
        """Return that the process has ended, how, and what it said last."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return "its process has ended"
        # It may have closed its pipes a moment ago.
        reader.join(1.0)
        # It may have said why, which nobody has read yet.
        with suppress(queue.Empty):
            while True:
                message = self._answers.get_nowait() or {}
                self._note_upload(message)
                if message.get("fault") or message.get("offline"):
                    return _fault(message)
        try:
            return end_of(process.wait(1.0), self._last_words)
        except subprocess.TimeoutExpired:
            return f"its process answers no more: {self._last_words}".rstrip(": ")

    def _give_up(self, why: str) -> None:
        if not self.fault:
            self.fault = why[:300]
            self._tell_fault(self.fault)


def _fault(message: Mapping[str, Any]) -> str:
    """Return why no more is asked, in a message that says so."""
    return f"{message.get('fault') or message['error']}: {message.get('hint', '')}".rstrip(": ")


def _transfer(message: Mapping[str, Any]) -> Transfer:
    return Transfer(
        key=str(message["key"]),
        hit=bool(message.get("hit")),
        put=bool(message.get("put")),
        bytes=int(message.get("bytes") or 0),
        error=str(message.get("error") or ""),
        lease=str(message.get("lease") or ""),
        unkept=bool(message.get("unkept")),
        differs=str(message.get("differs") or ""),
    )
