"""Steps beyond this machine: what a launcher promises, and what becomes of a job.

A site is a machine, or a cluster whose nodes see one folder. An agent process beside its files
takes inputs by digest, starts jobs through a launcher and gives results back. Whatever it has to
remember lies in the job's folder, so that another agent goes on where one was cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    """Its process is gone; the job's folder says how, if it could still be written."""
    LOST = "lost"
    """The node is gone, or the job was put off it: it may be started again."""


class Needs(NamedTuple):
    """What a job takes of a site. 0 where nobody said."""

    gpus: int = 0
    """On each node."""
    cores: int = 0
    """On each node."""
    memory: int = 0
    """Bytes, on each node."""
    seconds: int = 0
    """The longest that it may run."""
    nodes: int = 1


class Launcher(Protocol):
    """Starts processes on a site. Its agent calls it, from one thread."""

    def refusal(self, needs: Needs) -> str:
        """Return why the site can never run a job of these needs; "" where it can."""

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        """Start a command in a folder of the site, or queue it, and return its id.

        The job outlives the agent. What it prints goes to `folder/log`. Raises BuildError.
        """

    def state(self, ident: str) -> JobState:
        """Return what has become of a job. Raises BuildError where the site can't be asked."""

    def cancel(self, ident: str) -> None:
        """End a job: SIGTERM first, and SIGKILL to whatever is left. Doing it twice is right."""
