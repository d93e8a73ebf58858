"""Nodes of a Slurm cluster as `sinfo` lists them, and what of a job's needs they lack."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from olivebuild.api.site import Needs
from olivebuild.core import text

FORMAT = "%P|%N|%c|%m|%G|%l|%T"
"""What sinfo prints of each node: https://slurm.schedmd.com/sinfo.html."""
FAULTY = frozenset(
    [
        "down",
        "drain",
        "drained",
        "draining",
        "fail",
        "failing",
        "error",
        "inval",
        "maint",
        "unk",
        "unknown",
        "future",
    ]
)
"""States of a node that runs nothing now."""
GPU = re.compile(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)")
"""GPUs among generic resources: `gpu:2`, `gpu:h100:8(S:0-1),shard:32`."""


class PartitionNode(NamedTuple):
    """A node as a partition lends it."""

    partition: str
    node: str
    cores: int
    memory: int
    """Bytes."""
    gpus: int
    seconds: float
    """The longest that a job may run there."""
    up: bool

    def lacks(self, needs: Needs) -> list[str]:
        """Return what a job needs on one node and this one never has, in words."""
        texts = []
        if needs.gpus > self.gpus:
            texts.append(f"{needs.gpus} GPUs, at most {self.gpus}")
        if needs.cores > self.cores:
            texts.append(f"{needs.cores} cores, at most {self.cores}")
        if needs.memory > self.memory:
            most = text.size(self.memory)
            texts.append(f"{text.size(needs.memory)} of memory, at most {most}")
        if needs.seconds > self.seconds:
            most = text.seconds(self.seconds)
            texts.append(f"{text.seconds(needs.seconds)} of time for a job, at most {most}")
        return texts


def partition_nodes(answer: str, partitions: Collection[str] = ()) -> list[PartitionNode]:
    """Return the nodes of sinfo's answer in the named partitions; by default in the default one."""
    nodes = []
    for line in answer.splitlines():
        parts = line.strip().split("|")
        if len(parts) != 7 or not (parts[2].isdecimal() and parts[3].isdecimal()):
            continue
        name, node, cores, memory, gres, limit, state = parts
        plain = name.removesuffix("*")
        if plain in partitions if partitions else name.endswith("*"):
            nodes.append(
                PartitionNode(
                    partition=plain,
                    node=node,
                    cores=int(cores),
                    memory=int(memory) * 2**20,
                    gpus=sum(map(int, GPU.findall(gres))),
                    seconds=_seconds(limit),
                    up=_is_up(state),
                )
            )
    return nodes


def too_large(needs: Needs, nodes: Sequence[PartitionNode]) -> str:
    """Return what no node has, or too few have; "" where a job of these needs can run."""
    fitting = {node.node for node in nodes if not node.lacks(needs)}
    if len(fitting) >= max(1, needs.nodes):
        return ""
    names = sorted({node.partition for node in nodes})
    where = f"partition {names[0]}" if len(names) == 1 else f"partitions {', '.join(names)}"
    if fitting:
        plural = "node" if len(fitting) == 1 else "nodes"
        return f"{where} has {len(fitting)} {plural} of this sort, and {needs.nodes} are asked for"
    # The nearest one, and of several the largest, says most.
    node = min(nodes, key=lambda n: (len(n.lacks(needs)), -n.gpus, -n.memory, -n.cores))
    return f"no node of {where} has {'; nor '.join(node.lacks(needs))}"


def _is_up(state: str) -> bool:
    """Return whether a node in this state may run jobs; `*` says that it does not answer."""
    return "*" not in state and state.rstrip("~#!%$@^+-") not in FAULTY


def _seconds(limit: str) -> float:
    """Return the seconds of `[days-]hours:minutes:seconds`; infinite where there is no limit."""
    days, dash, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, days or "0")):
        return float("inf")
    numbers = [int(part) for part in parts]
    if dash:
        # days-hours, days-hours:minutes
        numbers += [0] * (3 - len(numbers))
    hours, minutes, seconds = [0] * (3 - len(numbers)) + numbers
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
