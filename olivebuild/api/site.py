"""Steps beyond this machine: what a launcher promises, and what becomes of a job.

A site is a machine, or a cluster whose nodes see one folder. An agent process beside its files
takes inputs by digest, starts jobs through a launcher and gives results back. Whatever it has to
remember lies in the job's folder, so that another agent goes on where one was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    """Its process is gone, and is not to be started again by itself."""
    LOST = "lost"
    """The site took its node from it: it is to be started again.

    A scheduler that does so may send SIGTERM to what is left of the job.
    """
    GONE = "gone"
    """It is not there, and the site does not know why: it is to be started again, unless it was
    stopped.

    Neither for LOST nor for GONE its folder is looked at, in which an outcome may lie.
    """


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


NO_NEEDS = Needs()


class SiteRequirements(NamedTuple):
    """What a node asks of another machine that is to make it, so that its key holds there."""

    needs: Needs = NO_NEEDS
    libraries: Mapping[str, str] = {}
    """Library -> the version that is part of its key."""
    variables: Mapping[str, str] = {}
    """Of the environment, those that are part of its key."""
    numerics: Mapping[str, str] = {}
    """Where they are part of its key, those of this machine."""
    scripts: Sequence[str] = ()
    """Files that its program reads, beside those that the action names."""


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

    def ending(self, ident: str) -> str:
        """Return a line of what the site says of a job that waits or has ended: `TIMEOUT`.

        "" where it says nothing.
        """

    def cancel(self, ident: str) -> None:
        """End a job: SIGTERM first, and SIGKILL to whatever is left. Doing it twice is right."""


class LauncherFactory(Protocol):
    """`open_launcher` of a module in executors/launchers."""

    def __call__(self, options: Mapping[str, str], root: Path) -> Launcher:
        """Return a launcher for jobs in `root`.

        Raises BuildError for an option that it does not know, and for a program that is missing.
        """
