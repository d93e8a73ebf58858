"""The processes of a job on several nodes of Ray: `python -m ... --nodes N ... -- COMMAND`.

Ray runs it as a job of its own, on the head; ml/training/nodes/rendezvous.py says what each process
is told. It reserves the same on N nodes, starts the command on
each, tells them where the first listens, and ends as the first ends. With a node lost it ends with
exit code 75, and whoever submitted it does so again, for the nodes that are left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from olivebuild.core.errors import first_line
from olivebuild.executors.launchers.ray import NODE_LOST, STOP_SECONDS

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

READY_SECONDS = 30
"""How long the nodes that are alive may take until what is asked for is free on them."""


class Bundle(NamedTuple):
    """What each node gives."""

    cores: int
    gpus: int
    memory: int

    @property
    def resources(self) -> dict[str, float]:
        amounts = {"CPU": self.cores, "GPU": self.gpus, "memory": self.memory}
        return {name: amount for name, amount in amounts.items() if amount}


class NodeProcess:
    """An actor, pinned to a node: the command's process there."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)
        self._process: asyncio.subprocess.Process | None = None

    async def address(self) -> str:
        """Return an address and a port of this node on which nothing listens."""
        import ray

        host = ray.util.get_node_ip_address()
        with socket.socket() as listening:
            listening.bind((host, 0))
            return f"{host}:{listening.getsockname()[1]}"

    async def run(self, command: Sequence[str], variables: dict[str, str]) -> int:
        """Run the command to its end; return its exit code."""
        with open("log", "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                # Where the actor is ended, as it is with its job, so is the process.
                *("setpriv", "--pdeathsig", "KILL"),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | variables,
            )
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask the process to end."""
        with contextlib.suppress(ProcessLookupError):
            if self._process:
                self._process.send_signal(signal.SIGTERM)


def main() -> int:
    import ray
    from ray.exceptions import RayError

    options = _options()
    bundle = Bundle(options.cores, options.gpus, options.memory)
    ray.init(log_to_driver=False)
    group = _reserve(options.nodes, bundle, grows=options.autoscaling)
    try:
        variables = {"OLIVEBUILD_NODES_WANTED": str(options.nodes)}
        if not bundle.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        return _run(_processes(group, bundle), options.command, variables)
    except RayError as e:
        print(f"a node was lost: {first_line(e)}", file=sys.stderr)
        return NODE_LOST


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("nodes", "cores", "gpus", "memory"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--autoscaling", action="store_true")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _reserve(nodes: int, bundle: Bundle, *, grows: bool) -> PlacementGroup:
    """Return a place on each of so many nodes, or of fewer where some are gone.

    Waits as long as others hold what nodes that are alive have. A cluster that `grows` replaces
    those that are gone.
    """
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.placement_group import placement_group, remove_placement_group

    while True:
        count = nodes if grows else min(nodes, _fitting(bundle)) or nodes
        if count < nodes:
            print(f"{count} of {nodes} nodes are left", file=sys.stderr)
        group = placement_group([bundle.resources] * count, strategy="STRICT_SPREAD")
        try:
            ray.get(group.ready(), timeout=READY_SECONDS)
            return group
        except GetTimeoutError:
            remove_placement_group(group)


def _fitting(bundle: Bundle) -> int:
    """Return how many nodes have altogether what each is asked for."""
    import ray

    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        all(total.get(name, 0) >= amount for name, amount in bundle.resources.items())
        for total in totals
    )


def _processes(group: PlacementGroup, bundle: Bundle) -> list[Any]:
    """Return an actor for each place of the group."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    actor = ray.remote(NodeProcess)
    return [
        actor.options(
            num_cpus=bundle.cores,
            num_gpus=bundle.gpus,
            memory=bundle.memory or None,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=index
            ),
            # One waits, the other stops it.
            max_concurrency=2,
        ).remote(os.getcwd())
        for index in range(group.bundle_count)
    ]


def _run(processes: list[Any], command: list[str], variables: dict[str, str]) -> int:
    """Run the command on all; return the first one's exit code. Raises RayError for a lost node."""
    import ray

    rendezvous = ray.get(processes[0].address.remote())
    runs = [
        process.run.remote(
            command,
            {
                "OLIVEBUILD_NODES": str(len(processes)),
                "OLIVEBUILD_NODE": str(index),
                "OLIVEBUILD_RENDEZVOUS": rendezvous,
                **variables,
            },
        )
        for index, process in enumerate(processes)
    ]
    _stop_with(processes)
    code: int = ray.get(runs[0])
    # The others end with it.
    ray.wait(runs[1:], num_returns=len(runs) - 1, timeout=STOP_SECONDS)
    return code


def _stop_with(processes: list[Any]) -> None:
    """Hand SIGTERM on to the processes: they end, and this one with the first."""

    def stop(*_: object) -> None:
        threading.Thread(target=lambda: [p.stop.remote() for p in processes]).start()

    signal.signal(signal.SIGTERM, stop)


def _leave(code: int) -> NoReturn:
    import ray

    ray.shutdown()
    sys.exit(code)


if __name__ == "__main__":
    if not shutil.which("setpriv"):
        sys.exit("a job of several nodes needs `setpriv`, of util-linux, on each")
    _leave(main())
