"""Actions as child processes of this one, on this machine's processor and GPUs.

A GPU is a token: an action that takes one sees only it, and two never share one. A child holds a pipe to its parent and ends
when that closes, so that no orphan goes on after a kill -9.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from olivebuild import machine
from olivebuild.errors import BuildError, StepError
from olivebuild.executor import Action, Message, Outcome
from olivebuild.node import Result

GRACE_SECONDS = 10


class LocalExecutor:
    def __init__(self, jobs: int = 1, tokens: list[str] | None = None) -> None:
        self.jobs = jobs
        self._tokens = machine.gpu_tokens() if tokens is None else tokens
        self._has_gpu = bool(self._tokens)
        self._running: dict[str, tuple[Action, subprocess.Popen[bytes], str | None]] = {}
        self._queue: queue.SimpleQueue[Message | Outcome] = queue.SimpleQueue()

    def can_start(self, action: Action) -> bool:
        if any(a.exclusive for a, _, _ in self._running.values()) or (action.exclusive and self._running):
            return False
        return len(self._running) < self.jobs and (bool(self._tokens) or not self._has_gpu or not action.gpu)

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        token = self._tokens.pop(0) if action.gpu and self._tokens else None
        out = Path(action.out)
        file = out.parent / f"{out.name}.json"
        file.write_text(action.to_json())
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": token or "", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "olivebuild.worker", str(file)]
        fds = tuple(inherit) if os.name == "posix" else ()
        with open(log, "wb") as stderr:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                cwd=out,
                pass_fds=fds,
                # A session of its own: Ctrl-C reaches the parent alone, which then stops the child in order.
                start_new_session=os.name == "posix",
            )
        self._running[action.node] = (action, child, token)
        threading.Thread(target=self._read, args=(action, child, log, time.monotonic()), daemon=True).start()

    def wait(self, seconds: float) -> Message | Outcome | None:
        try:
            message = self._queue.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(message, Outcome):
            _, child, token = self._running.pop(message.node)
            if child.stdin:
                child.stdin.close()
            if token is not None:
                self._tokens.append(token)
        return message

    def cancel(self) -> None:
        children = [child for _, child, _ in self._running.values()]
        for child in children:
            _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
            # What the child started and left behind goes with it.
            _signal(child, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            child.wait()

    def _read(self, action: Action, child: subprocess.Popen[bytes], log: Path, start: float) -> None:
        """Pass on what the child says, a JSON object a line, until it ends."""
        result: Result | None = None
        error: BuildError | None = None
        peak = 0
        assert child.stdout
        for line in child.stdout:
            try:
                data = json.loads(line)
                name = data.pop("event")
            except (ValueError, KeyError, AttributeError, TypeError):
                continue
            if name == "result":
                peak = data.pop("peak_rss")
                reference = data.pop("reference")
                result = Result(**data, reference=Path(reference) if reference else None)
            elif name == "error":
                error = BuildError.from_json(data, action.target)
            else:
                self._queue.put(Message(action.node, name, data))
        code = child.wait()
        seconds = time.monotonic() - start
        if error is None and (code != 0 or result is None):
            error = StepError(
                f"{action.target} failed: {_ending(code)}", hint=f"`olivebuild log {action.target}` shows its output", target=action.target
            )
        self._queue.put(Outcome(action.node, seconds, peak, None if error else result, error))


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Reach the child's whole session: the programs that it runs, too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(child.pid, number)
        else:
            child.terminate()


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with {code}"
    name = signal.Signals(-code).name
    return f"its process was stopped by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
