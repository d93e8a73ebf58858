"""The build's end of a connection to an agent: one request at a time, one answer each."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from olivebuild.core.errors import BuildError, StepError
from olivebuild.executors.site import frames
from olivebuild.executors.site.connection import Connection, environment_of
from olivebuild.executors.site.frames import Frame

OPEN_SECONDS = 60.0
"""How long an agent may take to begin: a login shell, and Python on a slow disk."""
ANSWER_SECONDS = 120.0
"""How long an agent may be silent; one that is at work says so."""
END_SECONDS = 2.0
MOST_ERRORS = 8 << 10
"""Bytes that are kept of what the command writes to stderr."""


class Cut(Exception):
    """The connection is cut. What runs on the site goes on."""


class Client:
    """A connection that is open. Raises Cut where it is cut, BuildError for what is refused."""

    def __init__(self, connection: Connection, agent: Sequence[str]) -> None:
        """Open it. Raises Cut, and BuildError where no agent began."""
        self._connection = connection
        self._answers: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._errors = b""
        self._number = 0
        try:
            self._process = subprocess.Popen(
                connection.argv(agent),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment_of(connection),
                # Ctrl-C is the build's, which then cancels jobs over this very connection.
                start_new_session=True,
            )
        except OSError as e:
            raise StepError(
                f"{connection.label} can't be reached: {e.strerror}: {e.filename}",
                hint="is the program installed?",
            ) from None
        threading.Thread(target=self._read, daemon=True).start()
        self._errors_reader = threading.Thread(target=self._read_errors, daemon=True)
        self._errors_reader.start()
        try:
            ready = self._next(OPEN_SECONDS)
        except BaseException:
            self.close()
            raise
        if ready is None:
            raise self._why_not_begun()
        if ready.data.get("error"):
            self.close()
            raise BuildError.from_json(ready.data["error"], "")

    def call(self, op: str, data: Mapping[str, object], blob: bytes = b"") -> Frame:
        """Return the answer to a request."""
        self._number += 1
        assert self._process.stdin
        try:
            frames.write(self._process.stdin, {"id": self._number, "op": op, **data}, blob)
        except OSError:
            raise Cut(self._why_cut()) from None
        while True:
            answer = self._next(ANSWER_SECONDS)
            if answer is None:
                raise Cut(self._why_cut())
            if answer.data.get("id") == self._number:
                break
        if error := answer.data.get("error"):
            raise BuildError.from_json(error, "")
        return answer

    def kill(self) -> None:
        """Cut the connection; whoever waits for an answer sees it."""
        self._process.kill()

    def close(self) -> None:
        """End the connection, and nothing else."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _next(self, seconds: float) -> Frame | None:
        """Return the next frame, None where there are no more. Raises Cut."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            self._process.kill()
            raise Cut(f"no answer for {seconds:g} s") from None

    def _read(self) -> None:
        assert self._process.stdout
        stream: Any = self._process.stdout
        with contextlib.suppress(OSError, ValueError), stream:
            if frames.skip_to_magic(stream):
                while frame := frames.read(stream):
                    self._answers.put(frame)
        self._answers.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr
        with contextlib.suppress(OSError, ValueError), self._process.stderr as stream:
            while data := stream.read1(4096):  # type: ignore[attr-defined]
                self._errors = (self._errors + data)[-MOST_ERRORS:]

    def _ended(self) -> tuple[int, str]:
        """Return the exit code of the command, and what it wrote to stderr."""
        self.close()
        # What it said last may not be read yet; what it left behind may hold the stream for ever.
        self._errors_reader.join(END_SECONDS)
        return self._process.returncode, self._errors.decode("utf-8", "replace")

    def _why_cut(self) -> str:
        code, errors = self._ended()
        last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
        return last.strip()[:300] or f"exit code {code}"

    def _why_not_begun(self) -> Exception:
        code, errors = self._ended()
        problem = self._connection.problem(code, errors)
        return CutAtFirst(problem) if self._connection.is_cut(code) else problem


class CutAtFirst(Cut):
    """The site was not reached. `problem` says why, for who has not begun anything yet."""

    def __init__(self, problem: BuildError) -> None:
        super().__init__(problem.fact)
        self.problem = problem
