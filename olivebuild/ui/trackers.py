"""Forwarder of training events to tracker processes (ui/tracker_process.py).

A process of its own imports the tracker's library and waits for its server.

Trackers are in no key, and a log that can't be written fails no build.
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
"""Kind, which is also the library's name -> its name in messages, and what follows the colon."""
ENDS = ("finished", "failed", "stopping")
FLUSH_SECONDS = 30.0
"""Time that a process has to write its last events when the build has ended."""


class TrackerTarget(Struct, frozen=True):
    """Destination of a log: `tensorboard:runs`, `mlflow:http://localhost:5000`."""

    kind: str
    where: str

    @staticmethod
    def parse(text: str) -> TrackerTarget:
        """Return the target of KIND:WHERE.

        Raises RecipeError for an unknown kind, and when its library is not installed.
        """
        kind, _, where = text.partition(":")
        others = set() if kind in KINDS else _installed()
        if not where or kind not in {*KINDS, *others}:
            forms = [f"{kind}: and {what}" for kind, (_, what) in KINDS.items()]
            forms += [f"{kind}: and a place" for kind in sorted(others)]
            raise RecipeError(
                f"{text!r} is no place to log to",
                where="--log-to",
                hint=f"write {' or '.join(forms)}",
            )
        if kind in others:
            return TrackerTarget(kind, where)
        if find_spec(kind) is None:
            fact = f"logging to {KINDS[kind][0]} needs the library {kind}, which is not installed"
            raise RecipeError(fact, where="--log-to", hint=f"pip install 'olivebuild[{kind}]'")
        return TrackerTarget(kind, where)


def _installed() -> set[str]:
    """Return the kinds of trackers of other packages."""
    from olivebuild.api.plugins import entry_points
    from olivebuild.api.tracker import TRACKERS

    return {entry.name for entry in entry_points(group=TRACKERS)}


class TrackerProcess(Struct):
    """The running process of one target."""

    process: subprocess.Popen[str]
    errors: IO[str]

    def send(self, line: str) -> None:
        """Write a line to the process; a process that has ended is ignored until `close`."""
        assert self.process.stdin
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            # `close` reports the reason when the build has ended.
            return

    def close(self) -> str:
        """End the process. Return its last line of stderr if it failed, else "".

        It is killed after FLUSH_SECONDS.
        """
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()
        try:
            code = self.process.wait(FLUSH_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"it did not take everything within {FLUSH_SECONDS:.0f} s; is it there?"
        if code == 0:
            return ""
        self.errors.seek(0)
        lines = self.errors.read().split("\n")
        nonempty = (line.strip()[:300] for line in reversed(lines) if line.strip())
        return next(nonempty, f"it ended with {code}")


class Trackers(Struct):
    """Context in which events also go to the processes of tracker targets.

    The first metric of a training starts the processes.
    """

    targets: tuple[TrackerTarget, ...]
    name: str
    """Name of the group of trainings: that of the recipe's folder."""
    warnings: list[str] = []
    """Problems of trackers, known when the context has ended."""
    _processes: dict[TrackerTarget, TrackerProcess] = {}
    _starts: dict[str, Event] = {}
    """Node -> its `started` event, sent with its first metric."""
    _open: set[str] = set()
    """Nodes of which metrics were sent, and no end yet."""
    _files: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._files:
            for target, process in self._processes.items():
                if problem := process.close():
                    tracker = KINDS[target.kind][0] if target.kind in KINDS else target.kind
                    self.warnings.append(f"not all was logged to {tracker}: {problem}")

    def tee(self, listen: Listener) -> Listener:
        """Return a listener that passes each event to `listen` and to the trackers."""
        if not self.targets:
            return listen

        def both(event: Event) -> None:
            listen(event)
            self._forward(event)

        return both

    def _forward(self, event: Event) -> None:
        """Send the events of nodes that have metrics; no other step appears in a tracker."""
        node = str(event.data.get("node", ""))
        if event.name == "started":
            self._starts[node] = event
        elif event.name == "metric":
            if node not in self._open:
                self._open.add(node)
                target = event.data.get("target")
                start = Event("started", {"node": node, "target": target})
                self._send(self._starts.get(node, start))
            self._send(event)
        elif event.name in ENDS and node in self._open:
            self._open.remove(node)
            self._send(event)

    def _send(self, event: Event) -> None:
        for target in self.targets:
            if target not in self._processes:
                self._processes[target] = self._start(target)
            self._processes[target].send(event.to_json())

    def _start(self, target: TrackerTarget) -> TrackerProcess:
        log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        errors = self._files.enter_context(log)
        command = python(
            "-m", "olivebuild.ui.tracker_process", target.kind, target.where, self.name
        )
        # In a session of its own: Ctrl-C reaches the build, and this process still writes the
        # events that it was sent.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        return TrackerProcess(process, errors)
