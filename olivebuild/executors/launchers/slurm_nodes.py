"""A job of several nodes of Slurm: its batch script.

`python -m olivebuild.executors.launchers.slurm_nodes COUNT WORD...` starts the command once on each
node of the allocation, and tells it its number and where the nodes meet (OLIVEBUILD_NODE,
OLIVEBUILD_NODES, OLIVEBUILD_RENDEZVOUS; ml/training/rendezvous.py). When a node is lost, the
command is started again on those that are left, and the step goes on from its checkpoint. COUNT is
how many nodes were asked for.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

AGAIN = 75
"""What the command ends with where it is to be started again; see executors/site/job.py."""
GRACE_SECONDS = 60
"""Time for the other nodes to end once one has."""
NOTICE_SECONDS = 10
"""Time for the controller to notice that a node is gone."""
ATTEMPTS = 8
"""The most times that the command is started."""
TASK = """\
export OLIVEBUILD_NODE="$SLURM_PROCID"
export OLIVEBUILD_RENDEZVOUS="$SLURM_LAUNCH_NODE_IPADDR:$OLIVEBUILD_PORT"
exec "$@"
"""
"""What runs on each node. srun names the address of the node that this script runs on, which is
that of task 0.
"""


class Batch:
    """The starts of a command on the nodes of an allocation."""

    def __init__(self, wanted: int, command: Sequence[str]) -> None:
        self._wanted, self._command = wanted, command
        self._stopped = False

    def run(self) -> int:
        """Run the command until it has ended or no node is left; return its exit status."""
        # srun gets a SIGTERM of its own, as all processes of the job do.
        signal.signal(signal.SIGTERM, self._stop)
        code = 1
        for _ in range(ATTEMPTS):
            count = self._nodes()
            code = self._start(count)
            if code == 0 or self._stopped:
                break
            if code != AGAIN and self._nodes() >= count:
                break
            time.sleep(NOTICE_SECONDS)
            left = self._nodes()
            if self._stopped or not left:
                break
            _say(f"a node was lost: the step goes on, on {left} of {self._wanted} nodes")
        return code

    def _stop(self, *_: object) -> None:
        self._stopped = True

    def _start(self, count: int) -> int:
        environment = os.environ | {
            "OLIVEBUILD_NODES": str(count),
            "OLIVEBUILD_NODES_WANTED": str(self._wanted),
            "OLIVEBUILD_PORT": str(_free_port()),
        }
        for name in ("SLURM_NNODES", "SLURM_JOB_NUM_NODES", "SLURM_TASKS_PER_NODE"):
            # They are of the allocation as it was, and srun would take them for options.
            environment.pop(name, None)
        words = [
            "srun",
            f"--nodes={count}",
            f"--ntasks={count}",
            "--ntasks-per-node=1",
            "--distribution=block",
            "--kill-on-bad-exit=0",
            f"--wait={GRACE_SECONDS}",
        ]
        done = subprocess.run(
            [*words, "sh", "-c", TASK, "sh", *self._command], env=environment, check=False
        )
        return done.returncode

    def _nodes(self) -> int:
        """Return how many nodes the allocation has now. A lost one is taken out of it."""
        job = os.environ["SLURM_JOB_ID"]
        words = ["squeue", "--noheader", f"--jobs={job}", "--format=%D"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        text = done.stdout.strip()
        # The controller may be away: nothing is known to be lost.
        return int(text) if text.isdecimal() else int(os.environ["SLURM_JOB_NUM_NODES"])


def _free_port() -> int:
    """Return a port that is free on this node, where the first of them will listen."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(Batch(int(sys.argv[1]), sys.argv[2:]).run())
