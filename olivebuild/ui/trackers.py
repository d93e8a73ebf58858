"""Passes the events of trainings on to programs that log them elsewhere (ui/tracker_process.py).

What such a program imports, or waits for, is its own matter.

A training knows nothing of this; it is in no key, and a log that can't be written fails no build.
"""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import IO

from msgspec import Struct, field

from olivebuild.api.event import Event, Listener
from olivebuild.core.errors import RecipeError
from olivebuild.core.processes import python

KINDS = {"tensorboard": ("TensorBoard", "a folder"), "mlflow": ("MLflow", "a tracking URI")}
"""Kind, which is also the library's name -> what people call it, and what follows the colon."""
ENDS = ("finished", "failed", "stopping")
PATIENCE = 30.0
"""Seconds that a program has to write what it was told last."""


class Place(Struct, frozen=True):
    """Where to log: `tensorboard:runs`, `mlflow:http://localhost:5000`."""

    kind: str
    where: str

    @staticmethod
    def parse(text: str) -> Place:
        """Raises RecipeError for what is no place, and when its library is not installed."""
        kind, _, where = text.partition(":")
        if kind not in KINDS or not where:
            forms = " or ".join(f"{kind}: and {what}" for kind, (_, what) in KINDS.items())
            raise RecipeError(
                f"{text!r} is no place to log to", where="--log-to", hint=f"write {forms}"
            )
        if find_spec(kind) is None:
            fact = f"logging to {KINDS[kind][0]} needs the library {kind}, which is not installed"
            raise RecipeError(fact, where="--log-to", hint=f"pip install 'olivebuild[{kind}]'")
        return Place(kind, where)


class Program(Struct):
    """One place's program, once there is something to log."""

    process: subprocess.Popen[str]
    errors: IO[str]

    def tell(self, line: str) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            # It has ended; why is told when the build has.
            return

    def close(self) -> str:
        """What went wrong, or ""."""
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"it did not take everything within {PATIENCE:.0f} s; is it there?"
        self.errors.seek(0)
        said = self.errors.read().split("\n")
        return (
            next(
                (line.strip()[:300] for line in reversed(said) if line.strip()),
                f"it ended with {code}",
            )
            if code
            else ""
        )


class Sinks(Struct):
    """A context in which listeners are joined by the programs of the places named; started by the
    first figure of a training.
    """

    places: tuple[Place, ...]
    name: str
    """What the trainings belong to: the recipe's folder."""
    complaints: list[str] = []
    _programs: dict[Place, Program] = {}
    _starts: dict[str, Event] = {}
    _open: set[str] = set()
    _files: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, *_: object) -> None:
        with self._files:
            for place, program in self._programs.items():
                if told := program.close():
                    self.complaints.append(f"not all was logged to {KINDS[place.kind][0]}: {told}")

    def joining(self, listen: Listener) -> Listener:
        if not self.places:
            return listen

        def both(event: Event) -> None:
            listen(event)
            self._pass_on(event)

        return both

    def _pass_on(self, event: Event) -> None:
        node = str(event.data.get("node", ""))
        if event.name == "started":
            self._starts[node] = event
        elif event.name == "metric":
            if node not in self._open:
                self._open.add(node)
                self._tell(
                    self._starts.get(
                        node, Event("started", {"node": node, "target": event.data.get("target")})
                    )
                )
            self._tell(event)
        elif event.name in ENDS and node in self._open:
            self._open.remove(node)
            self._tell(event)

    def _tell(self, event: Event) -> None:
        for place in self.places:
            if place not in self._programs:
                self._programs[place] = self._start(place)
            self._programs[place].tell(event.to_json())

    def _start(self, place: Place) -> Program:
        unread = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        errors = self._files.enter_context(unread)
        command = python("-m", "olivebuild.ui.tracker_process", place.kind, place.where, self.name)
        # In a session of its own: Ctrl-C is the build's, and this one still writes what it was
        # told.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        return Program(process, errors)
