"""The executor of a site: sends actions to its agent, follows them, and brings results back.

One thread talks to the agent. A connection that is cut is opened again, and jobs are followed from
where they were: they run without it.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from pathlib import Path

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.executor import Requirements
from olivebuild.api.site import SiteRequirements
from olivebuild.core.errors import BuildError
from olivebuild.executors.site.connection import Connection
from olivebuild.executors.site.courier import Courier, RemoteJob

GRACE_SECONDS = 30.0
"""How long a cancelled job may take to end."""


class SiteExecutor:
    """A place on other machines where actions run; see api/executor.py."""

    def __init__(
        self,
        *,
        name: str,
        connection: Connection,
        launcher: str = "process",
        options: Mapping[str, str] | None = None,
        root: str = "",
        jobs: int = 16,
        python: str = "",
    ) -> None:
        """Talk to the agent of a site, when there is something to say.

        `root`: the site's folder, "" for the user's cache there. `python`: the program that runs
        jobs, "" for the agent's own.
        """
        self.name = name
        self.jobs = jobs
        words = ["--launcher", launcher]
        words += ["--root", root] if root else []
        words += ["--python", python] if python else []
        for key, value in (options or {}).items():
            words += ["--option", f"{key}={value}"]
        self._messages: queue.SimpleQueue[Message | Outcome] = queue.SimpleQueue()
        self._courier = Courier(name, connection, words, self._messages.put)
        self._running: set[str] = set()

    def prepare(self, modules: Sequence[str]) -> None:
        """Do nothing: nobody may come."""

    def can_start(self, action: Requirements) -> bool:
        """Return whether fewer jobs are there than may be; the site has a queue of its own."""
        return self.free_slots(action) > 0

    def free_slots(self, action: Requirements) -> int:
        """Return how many more jobs there may be."""
        del action
        return self.jobs - len(self._running)

    def refusals(self, wanted: Mapping[str, SiteRequirements]) -> dict[str, BuildError]:
        """Return the nodes that can't be made there, and why. Connects to the site."""
        return self._courier.refusals(wanted)

    @property
    def is_moving(self) -> bool:
        """Return whether blobs are on their way, which takes time of this machine's processor."""
        return self._courier.is_moving

    def hold(self, *, held: bool) -> None:
        """Bring no results while something is timed here."""
        self._courier.is_held = held

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        del inherit
        log.write_bytes(b"")
        self._running.add(action.node)
        self._courier.start(RemoteJob(action, log))

    def wait(self, seconds: float) -> Message | Outcome | None:
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(message, Outcome):
            self._running.discard(message.node)
        return message

    def cancel(self) -> None:
        """Cancel what runs, and have forgotten there what was taken in."""
        self._courier.close()
        self._messages = queue.SimpleQueue()
        self._running.clear()
