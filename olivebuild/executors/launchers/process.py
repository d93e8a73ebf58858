"""Processes of one machine: each takes a GPU, or all of the processor, or waits until one is free.

    ROOT/locks/slot-cpu.lock, slot-gpu-N.lock    held while a job has it

The kernel gives a slot back when its job ends, so nothing has to run beside the jobs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from olivebuild.api.site import JobState, Launcher, Needs
from olivebuild.core import host
from olivebuild.core.errors import BuildError, StepError, of_disk
from olivebuild.core.processes import python
from olivebuild.core.text import size

SLOT = "olivebuild.executors.launchers.slot"
"""The module that Python runs to wait for a slot."""
GRACE_SECONDS = 15.0
"""From SIGTERM to SIGKILL: the job stops its step, which writes its state."""


class ProcessLauncher:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def refusal(self, needs: Needs) -> str:
        gpus = len(host.gpu_names())
        if needs.nodes > 1:
            return f"it is one machine, and {needs.nodes} nodes are asked for"
        if needs.gpus > gpus:
            return f"{needs.gpus} GPUs are asked for, and it has {gpus or 'none'}"
        if needs.cores > host.cores():
            return f"{needs.cores} cores are asked for, and it has {host.cores()}"
        if (memory := host.memory_bytes()) and needs.memory > memory:
            return f"{size(needs.memory)} of memory are asked for, and it has {size(memory)}"
        return ""

    def submit(self, name: str, command: Sequence[str], folder: Path, needs: Needs) -> str:
        words = [str(self._root), str(needs.gpus), str(needs.seconds), str(folder), *command]
        try:
            with open(folder / "log", "ab") as log:
                process = subprocess.Popen(
                    python("-m", SLOT, *words),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    start_new_session=True,
                )
        except OSError as e:
            raise of_disk(e, "a job") from None
        self._children[process.pid] = process
        return f"{process.pid} {name} {_started(process.pid)}"

    def state(self, ident: str) -> JobState:
        pid = self._pid(ident)
        if pid is None:
            return JobState.GONE
        return JobState.QUEUED if _waits(pid) else JobState.RUNNING

    def ending(self, ident: str) -> str:
        return "waiting for a GPU or the processor" if self.state(ident) == "queued" else ""

    def cancel(self, ident: str) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + GRACE_SECONDS
            if (pid := self._pid(ident)) is None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
            while self._pid(ident) is not None and time.monotonic() < deadline:
                time.sleep(0.05)

    def _pid(self, ident: str) -> int | None:
        """Return the process of a job, None where it has ended."""
        first, *rest = ident.split(" ", 2)
        if not first.isdigit() or len(rest) < 2:
            return None
        pid, started = int(first), rest[1]
        is_there = _started(pid) == started
        child = self._children.get(pid)
        # A child that has ended keeps its number until somebody asks, who does so last: it may have
        # ended since it was looked at.
        if child and child.poll() is not None:
            return None
        return pid if is_there else None


def _started(pid: int) -> str:
    """Return when a process began, "" where it is none: numbers are given again."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _started_elsewhere(pid) if not Path("/proc/self").exists() else ""
    # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: the name in parentheses may hold
    # blanks.
    words = text.rpartition(")")[2].split()
    return "" if words[0] in "ZX" else words[19]


def _started_elsewhere(pid: int) -> str:
    """As `_started`, where there is no /proc."""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split())


def _waits(pid: int) -> bool:
    """Return whether a process still waits for a slot."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # A process that has just begun has no words yet.
    return SLOT.encode() in words or words == [b""]


def open_launcher(options: Mapping[str, str], root: Path) -> Launcher:
    if options:
        raise StepError(
            f"the launcher process has no option {next(iter(options))}", hint="leave it out"
        )
    if os.name != "posix":
        raise BuildError("jobs can't outlive a connection on Windows", hint="use Linux or macOS")
    return ProcessLauncher(root)
