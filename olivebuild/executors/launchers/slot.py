"""Waiting for a slot: `... -m olivebuild.executors.launchers.slot ROOT GPUS SECONDS FOLDER ...`.

The words after that are the job's command, which it becomes when it has its slots, whose locks that
keeps open. The folder is the job's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

from olivebuild.core import host
from olivebuild.core.fs.locks import try_lock
from olivebuild.executors.site.folder import TIME_IS_UP

POLL_SECONDS = 0.1
LATE = 30
"""Seconds from the end of a job's time to SIGKILL."""


def take(root: Path, gpus: int) -> tuple[list[IO[bytes]], list[str]]:
    """Wait for slots; return their locks, and the tokens of the GPUs."""
    tokens = host.gpu_tokens() if gpus else []
    while True:
        held: list[IO[bytes]] = []
        taken: list[str] = []
        for token in tokens or ["cpu"]:
            name = f"slot-gpu-{token}" if gpus else "slot-cpu"
            if len(held) < max(1, gpus) and (lock := try_lock(root / "locks" / f"{name}.lock")):
                held.append(lock)
                taken.append(token)
        if len(held) == max(1, gpus):
            return held, taken if gpus else []
        # All or none: two that hold half each would wait for ever.
        for lock in held:
            lock.close()
        time.sleep(POLL_SECONDS)


def main() -> None:
    root, gpus, seconds, folder, *command = sys.argv[1:]
    held, tokens = take(Path(root), int(gpus))
    for lock in held:
        os.set_inheritable(lock.fileno(), True)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(tokens)}
    if int(seconds):
        _end_after(int(seconds), Path(folder))
    os.execve(command[0], command, environment)  # noqa: S606 - the job's own command


def _end_after(seconds: int, folder: Path) -> None:
    """Have the process that this one becomes end in time: asked to first, then killed."""
    own = os.getpid()
    if os.fork():
        return
    # A child that outlives nobody: it ends with the job, whose number is its parent's.
    for wait, number in ((seconds, signal.SIGTERM), (LATE, signal.SIGKILL)):
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            time.sleep(min(1.0, wait))
            if os.getppid() != own:
                os._exit(0)
        (folder / TIME_IS_UP).write_text(str(seconds))
        os.kill(own, number)
    os._exit(0)


if __name__ == "__main__":
    main()
