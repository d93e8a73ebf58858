"""A node that shares the batches of a training whose step runs on another one.

`python -m olivebuild.ml.training.nodes.node_process FILE`, where FILE holds the training's action
with paths of this node. It starts a process for each of its GPUs, and ends with node 0;
see ml/training/nodes/rendezvous.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from olivebuild.ml.models import load
from olivebuild.ml.training import data_parallel
from olivebuild.ml.training.nodes import rendezvous

POLL_SECONDS = 0.1


def main(file: str) -> int:
    """Serve the training whose action is in `file`; return the exit status."""
    # A SIGTERM to all of a job is meant for node 0, whose step ends first and writes its state.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    node = rendezvous.here()
    device, _ = load.platform()
    presence = rendezvous.Presence(node)
    # Whoever has no row of a batch is left out by node 0.
    share = rendezvous.share_of(device, data_parallel.count_for(device, sys.maxsize))
    layout = presence.take_part(share)
    if layout is None:
        return 1
    ranks = [
        data_parallel.start_rank(
            [file, str(rank), str(layout.total), node.address, layout.dtype], device, index
        )
        for index, rank in enumerate(layout.ranks(node.number))
    ]
    try:
        return _wait_for(ranks, presence)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def _wait_for(ranks: list[subprocess.Popen[bytes]], presence: rendezvous.Presence) -> int:
    """Return 0 when all ranks have ended well, 1 when one has not or node 0 is gone."""
    alone_since = 0.0
    while True:
        codes = [rank.poll() for rank in ranks]
        if failed := [code for code in codes if code]:
            presence.tell_end(failed[0])
            return 1
        if None not in codes:
            return 0
        if presence.alone.is_set():
            # At the end of a training node 0 goes first.
            alone_since = alone_since or time.monotonic()
            if time.monotonic() - alone_since > data_parallel.GRACE_SECONDS:
                return 1
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1]))
