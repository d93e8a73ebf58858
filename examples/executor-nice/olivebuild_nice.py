"""The executor `nice` for olivebuild: each step in a process of its own, of low priority."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.executor import WORKER, Requirements, WorkerOutput, request
from olivebuild.core import numerics
from olivebuild.core.errors import RecipeError


class NiceExecutor:
    """Executor that runs workers under nice(1), on the processor alone."""

    def __init__(self, *, jobs: int, place: str) -> None:
        if place and not (place.isdecimal() and int(place) < 20):
            raise RecipeError(
                f"{place!r} is no niceness", where="--executor", hint="write nice:10, from 0 to 19"
            )
        self._jobs = jobs
        self._niceness = place or "10"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._exclusive = False
        self._events: queue.SimpleQueue[Message | Outcome] = queue.SimpleQueue()

    def prepare(self, modules: Sequence[str]) -> None:
        """Start nothing: each step gets a process of its own."""

    def can_start(self, action: Requirements) -> bool:
        """Return whether fewer than `jobs` steps run, and none that is exclusive."""
        if self._exclusive or (action.exclusive and self._running):
            return False
        return len(self._running) < self._jobs

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        """Start a worker and send it the action."""
        # The numerics of the machine that computes are a part of the result's trace.
        action = action._replace(numerics=numerics.here(gpu=False))
        with open(log, "wb") as stderr:
            process = subprocess.Popen(
                ["nice", "-n", self._niceness, sys.executable, "-P", "-m", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
                # Who holds these files holds the lock of the action's key.
                pass_fds=tuple(inherit),
                # Ctrl-C reaches olivebuild alone, which then calls `cancel`.
                start_new_session=True,
            )
        self._running[action.node] = process
        self._exclusive = action.exclusive
        assert process.stdin
        # Where it has ended already, its end is the outcome.
        with contextlib.suppress(OSError):
            # The pipe stays open: a worker ends when it closes.
            process.stdin.write(request(action, log))
            process.stdin.flush()
        threading.Thread(target=self._read, args=(process, action), daemon=True).start()

    def _read(self, process: subprocess.Popen[bytes], action: Action) -> None:
        """Pass on what a worker says until it has finished the action."""
        output = WorkerOutput(action)
        assert process.stdout
        assert process.stdin
        for line in process.stdout:
            if message := output.read(line):
                self._events.put(message)
            elif output.idle:
                # It would take another action; closing the pipe ends it.
                process.stdin.close()
        code = process.wait()
        process.stdin.close()
        process.stdout.close()
        if output.idle or output.is_whole(code):
            self._events.put(output.outcome())
        else:
            self._events.put(output.outcome(f"ended with {code}"))

    def wait(self, seconds: float) -> Message | Outcome | None:
        """Return the next message or outcome, None after `seconds` without any."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(event, Outcome):
            del self._running[event.node]
            self._exclusive = False
        return event

    def cancel(self) -> None:
        """Kill the workers and all that they have started."""
        for process in self._running.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()
