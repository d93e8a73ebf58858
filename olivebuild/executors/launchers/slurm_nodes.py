"""A job of several nodes of Slurm: its batch script.

`python -m olivebuild.executors.launchers.slurm_nodes WANTED WORD...` starts the command once on
each node of the allocation, and tells it its number and where the nodes meet (OLIVEBUILD_NODE,
OLIVEBUILD_NODES and OLIVEBUILD_RENDEZVOUS of ml/training/nodes/rendezvous.py). WANTED is how many
nodes were asked for. When a node is gone, node 0 ends; the command is started again, until Slurm
notices, too, and ends the job (NODE_FAIL). The step goes on from its checkpoint.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

AGAIN = 75
"""What the command ends with where it is to be started again; see executors/site/job.py."""
GRACE_SECONDS = 60
"""Time for the other nodes to end once one has."""
PAUSE_SECONDS = 20.0
ATTEMPTS = 20
"""The most times that the command is started. A lost node shows after SlurmdTimeout, 300 s."""
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
        self._count = int(os.environ["SLURM_JOB_NUM_NODES"])
        self._stopped = threading.Event()

    def run(self) -> int:
        """Run the command until it has ended with no node lost; return its exit status."""
        # srun gets a SIGTERM of its own, as all processes of the job do.
        signal.signal(signal.SIGTERM, lambda *_: self._stopped.set())
        code, lost = self._start(), False
        for _ in range(ATTEMPTS - 1):
            lost = lost or code == AGAIN
            if not (code and lost) or self._stopped.wait(PAUSE_SECONDS):
                break
            sys.stderr.write("a node was lost: the step goes on from its last state\n")
            sys.stderr.flush()
            code = self._start()
        return code

    def _start(self) -> int:
        environment = os.environ | {
            "OLIVEBUILD_NODES": str(self._count),
            "OLIVEBUILD_NODES_WANTED": str(self._wanted),
            "OLIVEBUILD_PORT": str(_free_port()),
        }
        words = [
            "srun",
            f"--ntasks={self._count}",
            "--ntasks-per-node=1",
            "--distribution=block",
            # Node 0 has to say why it ends.
            "--kill-on-bad-exit=0",
            f"--wait={GRACE_SECONDS}",
        ]
        if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
            # Since 22.05 a step does not take that from its job.
            words.append(f"--cpus-per-task={cores}")
        words += ["sh", "-c", TASK, "sh", *self._command]
        return subprocess.run(words, env=environment, check=False).returncode


def _free_port() -> int:
    """Return a port that is free on this node, where the first of them will listen."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(Batch(int(sys.argv[1]), sys.argv[2:]).run())
