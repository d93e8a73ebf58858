"""The command's side of a push: a process that has the library, asked before and after the export.

Nothing of a half push is ever seen: the hub takes one commit, Azure ML a version when all its files
are there.
"""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import suppress
from types import TracebackType
from typing import IO

import msgspec

from olivebuild.core.errors import BuildError, StoreError
from olivebuild.core.processes import python
from olivebuild.core.values.strict_json import decode
from olivebuild.exporters.push.place import OPTION, Place
from olivebuild.exporters.push.records import Answer, Export, Pushed, Request

MODULE = "olivebuild.exporters.push.push_process"
GRACE = 5.0
"""Seconds that the process has to end by itself."""


class Pusher:
    """A process that pushes to a place, while its `with` block lasts."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Pusher:
        """Ask whether it could push there. Raises BuildError where not."""
        self._process = subprocess.Popen(
            python("-m", MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Ctrl-C is the command's, which ends it.
            start_new_session=True,
        )
        try:
            self._ask(Request(place=self.place))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process:
            assert process.stdin
            assert process.stdout
            with suppress(OSError):
                process.stdin.close()
            try:
                process.wait(GRACE if _kind is None else 0.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        self._errors.close()

    def push(self, export: Export) -> Pushed:
        """Push an export. Raises BuildError."""
        pushed = self._ask(export).pushed
        assert pushed
        return pushed

    def _ask(self, request: Request | Export) -> Answer:
        process = self._process
        assert process
        assert process.stdin
        assert process.stdout
        with suppress(OSError):
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        try:
            answer = decode(line, Answer)
        except ValueError:
            self._errors.seek(0)
            told = self._errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            fact = f"{self.place.text}: the process that pushes has ended: {told[:300]}"
            raise StoreError(fact, where=OPTION, hint="push again") from None
        if answer.error:
            raise BuildError.from_json(answer.error, "")
        return answer
