"""Client for the model process of `chat`, `predict` and `serve`. Nothing heavy is imported."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from olivebuild.core.errors import BuildError, InputError, StepError
from olivebuild.core.processes import python

GRACE_SECONDS = 3
LAST = ("end", "refused", "failed")
"""The events with which what is said of a question ends."""


class Refused(InputError):
    """A question that can't be answered; the next one may be."""


@dataclass(frozen=True)
class Settings:
    """The settings of a model process.

    `forms` are data sets' templates (name, format, text). `rows` is a file, empty for a chat.
    """

    target: str
    folder: str
    adapter: str
    trust_remote_code: bool
    max_tokens: int
    forms: tuple[dict[str, str], ...] = ()
    temperature: float = 0.0
    rows: str = ""
    shown: str = ""
    first: int = 0
    template_date: str = ""
    trust_adapter: bool = False
    adapters: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Adapters in the slots of the model, any of which a question may name: name -> (folder, date
    of its template). Where there are any, `template_date` is that of the model alone.
    """
    served: dict[str, int | None] = field(default_factory=dict)
    """What a server answers for: name -> the number of its form, None for the chat template."""


class Talker:
    """A model process, which runs while its `with` block does.

    One thread asks; any may `stop` what is asked.
    """

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings, self._log = settings, log
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._asked = 0
        self._open = False
        """An answer is under way."""
        self._error: BuildError | None = None
        """What the process has said of its end."""
        self._writing = threading.Lock()

    def __enter__(self) -> Talker:
        command = python(
            "-m",
            "olivebuild.ml.inference.chat_process",
            json.dumps(asdict(self._settings) | {"log": str(self._log)}),
        )
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        with open(self._log, "wb") as stderr:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                # Ctrl-C reaches the parent alone, which then ends the answer and not the model.
                start_new_session=os.name == "posix",
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            assert self._child.stdin
            self._child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(self._child.pid, signal.SIGKILL)
            else:
                self._child.kill()
        self._child.wait()

    def ready(self) -> dict[str, Any]:
        """Wait until the model is loaded, and return the event. Raises BuildError."""
        event = self._next()
        assert event["event"] == "ready", event
        return event

    def ask(self, **question: object) -> Iterator[str]:
        """Yield the answer, piece by piece. Raises Refused."""
        for event in self.events(**question):
            if event["event"] == "refused":
                raise Refused(event["fact"], hint=event["hint"], target=self._settings.target)
            if event["event"] == "text":
                yield event["text"]

    def events(self, **question: object) -> Iterator[dict[str, Any]]:
        """Yield all that is said of a question, the last of which is one of `LAST`.

        Raises BuildError where the process ends.
        """
        self.finish()
        self._asked += 1
        self._open = True
        self._send({"ask": self._asked, **question})
        while self._open:
            event = self._next()
            self._open = event["event"] not in LAST
            yield event

    def wait(self) -> BuildError:
        """Wait until the process has ended, and return the error that this is."""
        self._child.wait()
        # What it said last may not have been read. Its own children may hold its stdout open.
        self._reader.join(GRACE_SECONDS)
        return self._ended()

    def stop(self) -> None:
        """Let the answer that is under way end."""
        if self._open:
            self._send({"stop": self._asked})

    def finish(self) -> None:
        """Wait for the end of an answer that is not read to its end."""
        while self._open:
            self._open = self._next()["event"] not in LAST

    def rows(self) -> Iterator[tuple[dict[str, Any], str]]:
        while (event := self._next())["event"] == "row":
            yield event["row"], event["text"]

    def _send(self, request: dict[str, object]) -> None:
        assert self._child.stdin
        line = json.dumps(request).encode() + b"\n"
        # If it has ended, its last event or the lack of one says why. ValueError: `with` has ended,
        # in another thread.
        with contextlib.suppress(OSError, ValueError), self._writing:
            self._child.stdin.write(line)
            self._child.stdin.flush()

    def _next(self) -> dict[str, Any]:
        event = self._events.get()
        if event is None:
            self._events.put(None)
            raise self._ended()
        if event["event"] == "error":
            raise self._ended()
        return event

    def _ended(self) -> BuildError:
        return self._error or StepError(
            f"the process that holds {self._settings.target} ended",
            hint=f"{self._log} has the whole story; perhaps there was too little memory",
        )

    def _read(self) -> None:
        # A thread, because a wait on a queue can be interrupted without losing half a line.
        assert self._child.stdout
        with self._child.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event["event"] == "error":
                        self._error = BuildError.from_json(event, self._settings.target)
                    self._events.put(event)
        self._events.put(None)
