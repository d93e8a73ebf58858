"""The local executor: actions as child processes, on this machine's processor and GPUs.

A GPU is a token: an action sees only those that it takes, and two never share one. A child holds a
pipe to its parent and ends when that closes, so that no orphan runs on after a kill -9.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from msgspec import Struct, field

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.executor import WORKER, Requirements, WorkerOutput, request
from olivebuild.core import code_version, hashing, host, numerics
from olivebuild.core.exit_reasons import ending, kills
from olivebuild.core.processes import python

# os.wait4 imports it when a child has ended, when there may be no room for one more open file.
with contextlib.suppress(ImportError):
    import resource  # noqa: F401

GRACE_SECONDS = 10


class Child(Struct):
    """A worker process, its GPUs, and the output of its action; None while it waits for one."""

    process: subprocess.Popen[bytes]
    tokens: list[str]
    output: WorkerOutput | None
    reader: threading.Thread = field(default_factory=threading.Thread)
    kills: int | None = None
    """The number of processes that the system had killed for want of memory at the start."""
    ended: bool = False
    """An action that it is given now would be lost: what becomes of it is heard no more."""
    expects: frozenset[str] = frozenset()
    """The kinds of actions that it waits for, whose libraries it has; any where it is empty."""
    shares: list[str] = []
    """The GPUs that it takes over when the action that has them now gives them back."""

    @property
    def action(self) -> Action | None:
        """The action that it runs."""
        return self.output.action if self.output else None


class LocalExecutor:
    def __init__(self, jobs: int = 1, tokens: list[str] | None = None) -> None:
        self.jobs = jobs
        self._tokens = host.gpu_tokens() if tokens is None else tokens
        self._gpus = len(self._tokens)
        self._running: dict[str, Child] = {}
        self._idle: list[Child] = []
        self._queue: queue.SimpleQueue[Message | Outcome] = queue.SimpleQueue()
        self._code = code_version.code()
        self._handing_over = threading.Lock()
        """Held while a child gets an action, or is found to have ended without one: it may do so at
        any moment.
        """

    def missing(self, libraries: Iterable[str]) -> list[str]:
        """Return the libraries that are not installed here, where steps run."""
        return [name for name in libraries if not host.installed(name)]

    def can_start(self, action: Requirements) -> bool:
        running = [child.action for child in self._running.values() if child.action]
        if any(a.exclusive for a in running) or (action.exclusive and running):
            return False
        free = len(self._tokens) + sum(len(child.tokens) for child in self._idle)
        return len(self._running) < self.jobs and free >= self._gpus_for(action)

    def free_slots(self, action: Requirements) -> int:
        """Return how many such actions could start now; at most one that takes GPUs."""
        if not self.can_start(action):
            return 0
        if action.exclusive or self._gpus_for(action):
            return 1
        return self.jobs - len(self._running)

    def _gpus_for(self, action: Requirements) -> int:
        """A step that could use more GPUs than there are makes do with those."""
        return min(action.gpus, self._gpus)

    def prepare(self, modules: Sequence[str]) -> None:
        """Start a process for the first action that may share one.

        Its imports, and those of the `modules`, pass while this one still plans.
        """
        if not self._idle and hashing.THREADS > 1:
            self._idle.append(self._child(_spawn([], None, ahead=modules), [], None))

    def expect(self, kinds: Collection[str], modules: Sequence[str], *, gpus: int) -> None:
        """Start a process for actions of some kinds, that has their `modules` by then.

        One with GPUs takes over those of an action that runs, when it has ended.
        """
        shares = [token for child in self._running.values() for token in child.tokens][:gpus]
        if len(shares) < gpus:
            return
        child = self._child(_spawn(shares, None, ahead=modules), [], None)
        child.expects, child.shares = frozenset(kinds), shares
        self._idle.append(child)

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        count = self._gpus_for(action)
        action = action._replace(numerics=numerics.here(gpu=bool(count)))
        if any(source.trust_remote_code for source in action.inputs.values()):
            # What code a model's folder brings along leaves behind ends with its process.
            action = action._replace(reuses_worker=False)
        line = request(action, log, self._code)
        if action.exclusive:
            self._dismiss(self._idle)
        child = self._waiting(action, count) if action.reuses_worker else None
        if child is None:
            while len(self._tokens) < count:
                # A GPU is given back when the process ends that held it.
                self._dismiss([next(child for child in self._idle if child.tokens)])
            tokens, self._tokens = self._tokens[:count], self._tokens[count:]
            # A process that goes on to other actions must not hold the first one's lock.
            child = self._child(
                _spawn(tokens, log, () if action.reuses_worker else inherit), tokens, action
            )
        child.kills = kills()
        self._running[action.node] = child
        _send(child.process, line)

    def _dismiss(self, idle: Sequence[Child]) -> None:
        """End processes that wait: one may still import what it was told to."""
        ended = {id(child) for child in idle}
        self._idle = [child for child in self._idle if id(child) not in ended]
        for child in idle:
            _signal(child.process, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            _end(child)
            self._tokens += child.tokens

    def _waiting(self, action: Action, gpus: int) -> Child | None:
        """A process that waited for more, with as many GPUs, and has this action now."""
        while child := self._fitting(action, gpus):
            self._idle = [other for other in self._idle if other is not child]
            if child.shares:
                # A process that waits with one of them has no use for it.
                self._dismiss([c for c in self._idle if set(c.tokens) & set(child.shares)])
                self._tokens = [token for token in self._tokens if token not in child.shares]
                child.tokens, child.shares = child.shares, []
            with self._handing_over:
                if not child.ended:
                    child.output = WorkerOutput(action)
                    return child
            # Whatever ended it, it was waiting: nothing is lost.
            _end(child)
            self._tokens += child.tokens
        return None

    def _fitting(self, action: Action, gpus: int) -> Child | None:
        """Return a process that waits for such an action, or else for any."""
        free = {*self._tokens, *(token for child in self._idle for token in child.tokens)}
        idle = [
            child
            for child in self._idle
            if len(child.shares or child.tokens) == gpus and free.issuperset(child.shares)
        ]
        waiting = [child for child in idle if action.kind in child.expects]
        waiting = waiting or [child for child in idle if not child.expects]
        return waiting[-1] if waiting else None

    def _child(
        self, process: subprocess.Popen[bytes], tokens: list[str], action: Action | None
    ) -> Child:
        child = Child(process, tokens, WorkerOutput(action) if action else None)
        child.reader = threading.Thread(target=self._read, args=(child,), daemon=True)
        child.reader.start()
        return child

    def wait(self, seconds: float) -> Message | Outcome | None:
        try:
            message = self._queue.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(message, Outcome):
            child = self._running.pop(message.node)
            if child.process.poll() is None:
                self._idle.append(child)
            else:
                self._tokens += child.tokens
                _end(child)
        return message

    def cancel(self) -> None:
        children = list(self._running.values())
        for child in children:
            _signal(child.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            # What the child started and left behind goes with it.
            _signal(child.process, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        for child in self._idle:
            # It holds nothing: no need to wait until it sees that nothing comes any more.
            _signal(child.process, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        for child in (*children, *self._idle):
            _end(child)
        # Another build may come, with nothing of this one.
        self._tokens += [token for child in (*children, *self._idle) for token in child.tokens]
        self._queue = queue.SimpleQueue()
        self._running.clear()
        self._idle.clear()

    def _read(self, child: Child) -> None:
        """Pass on what the child says, a JSON object a line, until it ends."""
        assert child.process.stdout
        with child.process.stdout as lines:
            self._pass_on(child, lines)

    def _pass_on(self, child: Child, lines: Iterable[bytes]) -> None:
        for line in lines:
            assert child.output
            if message := child.output.read(line):
                self._queue.put(message)
            elif child.output.idle:
                outcome = child.output.outcome()
                child.expects = child.output.expects
                child.output = None
                self._queue.put(outcome)
        code, most = _end_of_session(child.process)
        with self._handing_over:
            child.ended = True
            output = child.output
            if output is None:
                return
        if output.is_whole(code):
            self._queue.put(output.outcome())
        else:
            self._queue.put(output.outcome(*ending(code, most, child.kills)))


def _spawn(
    tokens: Sequence[str], log: Path | None, inherit: Sequence[int] = (), ahead: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": ",".join(tokens),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    with open(log or os.devnull, "wb") as stderr:
        return subprocess.Popen(
            # -P: a file of the folder where we were started is no module of a library's.
            python("-m", WORKER, *ahead),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            pass_fds=tuple(inherit) if os.name == "posix" else (),
            # A session of its own: Ctrl-C reaches the parent alone, which then stops the child in
            # order.
            start_new_session=os.name == "posix",
        )


def _send(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Give a worker something to do. If it is gone meanwhile, its end tells."""
    assert process.stdin
    with contextlib.suppress(OSError):
        process.stdin.write(line)
        process.stdin.flush()


def _end(child: Child) -> None:
    """Return when a child has ended that waits for more, or is about to end."""
    with contextlib.suppress(OSError):
        if child.process.stdin:
            # Whoever waits ends when the pipe closes.
            child.process.stdin.close()
    child.process.wait()
    child.reader.join()


def _end_of_session(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for a child that is about to end, and end what it started.

    It can't do that itself when it is killed.

    Its exit code, and the most memory that it took, in bytes; 0 where that is not told.
    """
    if hasattr(os, "waitid"):
        # Not collected yet, so that its id can't be another's.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()
    _signal(process, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    if sys.platform == "linux":
        # The process may have been waited for elsewhere.
        with contextlib.suppress(ChildProcessError):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss * 1024
    return process.wait(), 0


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Reach the child's whole session: the programs that it runs, too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(child.pid, number)
        else:
            child.terminate()
