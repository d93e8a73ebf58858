"""The protocol of an executor, which says where actions run, and the talk with one worker.

A worker is `python -m olivebuild.executors.worker`, on whatever machine. It reads one line from
stdin for each action (`request`) and writes a JSON object a line to stdout (`WorkerOutput`). It
ends when its stdin closes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.result import Result
from olivebuild.core import code_version
from olivebuild.core.errors import BuildError, StepError

EXECUTORS = "olivebuild.executors"
"""The group of entry points of executors that are not built in."""
WORKER = "olivebuild.executors.worker"
"""The module that Python runs as a worker."""


class Requirements(Protocol):
    """The resources that decide whether an action can start, or a node that becomes one."""

    @property
    def gpus(self) -> int: ...
    @property
    def exclusive(self) -> bool: ...


class Resources(NamedTuple):
    """Resources by themselves."""

    gpus: int = 0
    exclusive: bool = False


NO_REQUIREMENTS = Resources()
"""Nothing but a slot."""


class Executor(Protocol):
    """A place where actions run. One build calls it, from one thread.

    One of many slots may say how many of them are free: see `free_slots`.
    """

    def prepare(self, modules: Sequence[str]) -> None:
        """Begin what takes long before the first action, while the build is still planned.

        `modules` are those that a worker will import. Doing nothing is right, too.
        """

    def can_start(self, action: Requirements) -> bool:
        """Return whether there is a slot, and the GPUs that it takes, for this action now."""

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        """Start the action, and return at once.

        What it prints goes to the file `log`. `inherit` are file descriptors of this process that
        must stay open as long as the action runs, for they hold the locks of its key.
        """

    def wait(self, seconds: float) -> Message | Outcome | None:
        """Return the next message or outcome of an action; None after `seconds` without any."""

    def cancel(self) -> None:
        """Stop all that runs or waits, and return when it has stopped."""


@runtime_checkable
class Expecting(Protocol):
    """An executor whose processes can be started before the actions that they are for."""

    def expect(self, kinds: Collection[str], modules: Sequence[str], *, gpus: int) -> None:
        """Start a process that imports `modules`, for actions of some kinds that will come.

        `gpus`: how many of the running actions' GPUs it takes over when they are given back.
        """


class ExecutorFactory(Protocol):
    """The object that an entry point of the group `olivebuild.executors` names."""

    def __call__(self, *, jobs: int, place: str) -> Executor:
        """Return an executor that runs at most `jobs` actions at once.

        `place` is what follows the colon of `--executor NAME:PLACE`, "" without one.

        Raises BuildError for a place that is none.
        """


def free_slots(executor: Executor, action: Requirements) -> int:
    """Return how many actions of these requirements could start now.

    What the executor's own `free_slots` says, which may be fewer; without it at most one. Where
    builds of several machines share a remote cache, their leases are asked for at once then.
    """
    if not executor.can_start(action):
        return 0
    count = getattr(executor, "free_slots", None)
    return count(action) if count else 1


def request(action: Action, log: Path, code: str = "") -> bytes:
    """Write the action into a file beside its output, and return the line that a worker is sent.

    `code` is the stamp of the code that made the plan, that of this process by default: a worker
    with other code refuses the action.
    """
    out = Path(action.out)
    file = out.parent / f"{out.name}.json"
    file.write_text(action.to_json())
    line = {"action": str(file), "log": str(log), "code": code or code_version.code()}
    return json.dumps(line).encode() + b"\n"


class WorkerOutput:
    """The lines that a worker writes for one action, until it ends or waits for another."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.idle = False
        """The worker waits for another action."""
        self.expects: frozenset[str] = frozenset()
        """The kinds of actions that it waits for alone, where it holds large libraries."""
        self._started = time.monotonic()
        self._result: Result | None = None
        self._error: BuildError | None = None
        self._peak_rss = 0

    def read(self, line: bytes) -> Message | None:
        """Return the message of a line; None where it is none, or tells of the action's end."""
        try:
            data = json.loads(line)
            name = data.pop("event")
        except (ValueError, KeyError, AttributeError, TypeError):
            # What a library prints is no message.
            return None
        if name == "result":
            self._peak_rss = data.pop("peak_rss")
            reference = data.pop("reference")
            self._result = Result(**data, reference=Path(reference) if reference else None)
        elif name == "error":
            self._error = BuildError.from_json(data, self.action.target)
        elif name == "idle":
            self.idle = True
            self.expects = frozenset(map(str, data.get("expects", ())))
        else:
            return Message(self.action.node, name, data)
        return None

    def is_whole(self, code: int) -> bool:
        """Return whether an end with this exit code needs no other explanation than the lines."""
        return self._error is not None or (code == 0 and self._result is not None)

    def outcome(self, problem: str = "", hint: str = "") -> Outcome:
        """Return the outcome.

        `problem` says how the worker ended where it has told no error itself: "was killed by signal
        9".
        """
        if problem and self._error is None:
            target = self.action.target
            log = f"`olivebuild log {target}` shows its output"
            self._error = StepError(
                f"{target} failed: its process {problem}",
                hint=f"{log}; {hint}" if hint else log,
                target=target,
            )
        return Outcome(
            node=self.action.node,
            seconds=time.monotonic() - self._started,
            peak_rss=self._peak_rss,
            result=None if self._error else self._result,
            error=self._error,
            numerics=self.action.numerics,
        )
