"""A site that is a folder of this machine, and steps for it: programs of a line."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from olivebuild.api.action import Action, ActionInput, Message, Outcome
from olivebuild.api.site import Needs, SiteRequirements
from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.executors.site.connection import LocalConnection
from olivebuild.executors.site.executor import SiteExecutor
from olivebuild.executors.site.folder import JobFolder

SECONDS = 240.0
"""The longest that a test waits for anything."""


class Recorded(LocalConnection):
    """A connection of which the test knows the process."""

    def __init__(self, label: str, file: Path) -> None:
        super().__init__(label)
        self._file = file

    def argv(self, agent: Sequence[str]) -> list[str]:
        script = f'echo $$ > "{self._file}"; exec "$@"'
        return ["sh", "-c", script, "sh", *super().argv(agent)]

    def cut(self) -> None:
        """Have the agent killed."""
        pid = int(self._file.read_text())
        self._file.unlink()
        os.kill(pid, signal.SIGKILL)


class RemoteSteps:
    """A cache, a site, and an executor between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.work.mkdir()
        self.site = root / "site"
        self.store = Store(root / "cache")
        self.connection = Recorded("box (local)", root / "agent.pid")
        self.log = root / "log"
        self.notes: list[str] = []

    def executor(self, **options: Any) -> SiteExecutor:
        return SiteExecutor(name="box", connection=self.connection, root=str(self.site), **options)

    def write(self, name: str, text: str) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def action(
        self,
        run: str,
        *,
        files: Sequence[Path] = (),
        inputs: dict[str, ActionInput] | None = None,
        needs: Needs | None = None,
        **wanted: Any,
    ) -> Action:
        """Return a command with an output `text`, under a key of its own."""
        key = hashing.of_json([run, [str(path) for path in files], wanted])
        out = self.store.scratch(key) / "out"
        out.mkdir()
        return Action(
            node="step",
            target="step",
            kind="command",
            key=key,
            fields={"run": run, "outputs": {"text": "text.txt"}, "shell": True},
            inputs=inputs or {},
            files={"file": [str(path) for path in files]},
            recipe_folder=str(self.work),
            out=str(out),
            store=str(self.store.root),
            runner="olivebuild.ml.kinds.command",
            elsewhere=SiteRequirements(needs=needs or Needs(), **wanted),
        )

    def folder(self, action: Action) -> JobFolder:
        return JobFolder(self.site, action.key)

    def outcome(self, executor: SiteExecutor) -> Outcome:
        """Wait for the end of the step, and keep what it notes."""
        for message in messages(executor):
            if isinstance(message, Outcome):
                return message
            if message.event == "note":
                self.notes.append(str(message.data["text"]))
        raise AssertionError("no outcome")

    def run(self, action: Action) -> Outcome:
        """Run one step from begin to end."""
        executor = self.executor()
        try:
            executor.start(action, self.log)
            return self.outcome(executor)
        finally:
            executor.cancel()


def messages(executor: SiteExecutor) -> Iterator[Message | Outcome]:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if message := executor.wait(0.1):
            yield message
    raise AssertionError("the step does not end")


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if what():
                return
        time.sleep(0.02)
    raise AssertionError("it does not become true")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
