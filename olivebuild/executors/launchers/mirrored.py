"""A launcher for services whose nodes share no folder with the agent.

A process (ml/transfer/exchange/mirror.py) brings a job's action and blobs to a URL, and keeps the
job's folder as the node has it. What the service starts is the far end
(ml/transfer/exchange/node.py).
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import InputError, StepError
from olivebuild.core.processes import python

MIRROR = "olivebuild.ml.transfer.exchange.mirror"
NODE = "olivebuild.ml.transfer.exchange.node"
SECRET = "OLIVEBUILD_EXCHANGE_SECRET"  # noqa: S105 - the name of a variable
DONE = "-"
"""The service's name of a job that needs none: its outcome has come after all."""


class Service(Protocol):
    """Starts commands on machines of its own. The agent calls it, from one thread."""

    def refusal(self, needs: Needs) -> str:
        """Return why it can never run a command of these needs; "" where it can."""

    def submit(
        self,
        name: str,
        words: Sequence[str],
        variables: Mapping[str, str],
        folder: Path,
        needs: Needs,
    ) -> str:
        """Start `python -m WORDS` with these variables, or queue it, and return its id.

        `name` is unique. `folder` is the job's, on this side. Raises BuildError.
        """

    def state(self, ident: str) -> JobState:
        """Raises BuildError where it can't be asked."""

    def ending(self, ident: str) -> str:
        """Return a line of what it says of a job that waits or has ended; "" for nothing."""

    def cancel(self, ident: str) -> None:
        """End a job."""


class MirroredLauncher:
    """A launcher that brings jobs to a service, and what comes of them back, through a URL."""

    def __init__(self, service: Service, url: str | Callable[[], str], root: Path) -> None:
        """`url`: of the exchange, or what finds it out when it is needed first."""
        self._service = service
        self._url, self._root = url, root
        self._mirror: MirrorProcess | None = None

    def refusal(self, needs: Needs) -> str:
        return self._service.refusal(needs)

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        """Raises BuildError."""
        del command
        key = folder.name
        answer = self._process().ask("submit", key)
        attempt = answer["attempt"]
        if not attempt:
            return f"{key}/{DONE}"
        words = (NODE, self._place(), key, attempt)
        secret = {SECRET: answer["secret"]}
        ident = self._service.submit(f"{name}-{attempt}", words, secret, folder, needs)
        return f"{key}/{ident}"

    def state(self, ident: str) -> JobState:
        """Raises BuildError where neither the service nor the exchange can be asked."""
        key, _, job = ident.partition("/")
        if self._has_outcome(key):
            return JobState.ENDED
        process = self._process()
        process.follow(key)
        state = JobState.ENDED if job == DONE else self._service.state(job)
        if state not in (JobState.ENDED, JobState.LOST):
            return state
        answer = process.ask("settle", key)
        if answer["outcome"]:
            return JobState.ENDED
        return JobState.LOST if answer["refused"] else state

    def ending(self, ident: str) -> str:
        key, _, job = ident.partition("/")
        said = "" if job == DONE else self._service.ending(job)
        fault = self._mirror.faults.get(key, "") if self._mirror else ""
        return "; ".join(text for text in (said, fault and f"the exchange: {fault}") if text)

    def cancel(self, ident: str) -> None:
        job = ident.partition("/")[2]
        if job != DONE:
            self._service.cancel(job)

    def _has_outcome(self, key: str) -> bool:
        return (self._root / "jobs" / key / "outcome.json").is_file()

    def _process(self) -> MirrorProcess:
        """Raises BuildError."""
        if self._mirror is None or self._mirror.has_ended:
            self._mirror = MirrorProcess(self._place(), self._root)
        return self._mirror

    def _place(self) -> str:
        if callable(self._url):
            self._url = self._url()
        return self._url


class MirrorProcess:
    """The process that speaks with the exchange. It ends with this one."""

    def __init__(self, url: str, root: Path) -> None:
        self._url = url
        self.faults: dict[str, str] = {}
        """key -> what was wrong when its job was looked at last"""
        self._followed: set[str] = set()
        self._number = 0
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            python("-m", MIRROR, url, str(root)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._next()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def follow(self, key: str) -> None:
        """Have a job's folder kept as its node has it, from now on. Raises BuildError."""
        if key not in self._followed:
            self.ask("follow", key)
            self._followed.add(key)

    def ask(self, op: str, key: str) -> dict[str, Any]:
        """Return the answer, however long that takes: gigabytes may be on their way.

        Raises BuildError.
        """
        self._number += 1
        request = {"id": self._number, "op": op, "key": key}
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        while (answer := self._next()).get("id") != self._number:
            pass
        if op == "submit":
            self._followed.add(key)
            self.faults.pop(key, None)
        return answer

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            message = json.loads(line)
            if "fault" in message:
                self.faults[message["key"]] = str(message["fault"])[:300]
            else:
                self._answers.put(message)
        self._answers.put(None)

    def _next(self) -> dict[str, Any]:
        """Raises InputError for what the process refuses, StepError where it has ended."""
        message = self._answers.get()
        if message is None:
            raise StepError(
                f"the process that speaks with {self._url} has ended",
                hint="build again: what had arrived there is kept",
            )
        if error := message.get("error"):
            hint = message.get("hint") or "is the exchange right, and may you write there?"
            raise InputError(str(error)[:300], where=self._url, hint=str(hint))
        return message
