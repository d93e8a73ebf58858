"""Nodes as sinfo lists them, and what a job's needs lack."""

from __future__ import annotations

import pytest

from olivebuild.api.site import Needs
from olivebuild.executors.launchers.slurm_cluster import partition_nodes, too_large

ANSWER = """\
main*|n1|2|4000|gpu:1|1:00:00|idle
main*|n2|64|256000|gpu:h100:8(S:0-1),shard:32|7-00:00:00|allocated
main*|n3|2|4000|(null)|1:00:00|down*
huge|n4|8|4000|gpu:a100:2(S:0,1),gpu:v100:1|infinite|idle~
huge|n5|8|4000|gpu:a100:2|infinite|mixed*
noise of a site's wrapper
"""


def test_nodes_are_those_of_the_default_partition() -> None:
    nodes = partition_nodes(ANSWER)
    assert [(n.node, n.cores, n.gpus, n.seconds, n.up) for n in nodes] == [
        ("n1", 2, 1, 3600, True),
        ("n2", 64, 8, 7 * 86400, True),
        ("n3", 2, 0, 3600, False),
    ]
    assert nodes[1].memory == 256000 * 2**20


def test_a_named_partition_has_its_own() -> None:
    nodes = partition_nodes(ANSWER, ["huge"])
    assert [(n.node, n.gpus, n.seconds, n.up) for n in nodes] == [
        ("n4", 3, float("inf"), True),
        # It does not answer.
        ("n5", 2, float("inf"), False),
    ]


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("30:00", 1800),
        ("1:00:00", 3600),
        ("1-00:00:00", 86400),
        ("infinite", float("inf")),
        ("n/a", float("inf")),
    ],
)
def test_limits_of_time(limit: str, seconds: float) -> None:
    (node,) = partition_nodes(f"main*|n1|2|4000|gpu:1|{limit}|idle")
    assert node.seconds == seconds


@pytest.mark.parametrize(
    ("needs", "problem"),
    [
        (Needs(), ""),
        (Needs(gpus=8, cores=64, seconds=86400), ""),
        (Needs(nodes=3), ""),
        (Needs(gpus=9), "no node of partition main has 9 GPUs, at most 8"),
        (Needs(memory=2**40), "no node of partition main has 1099.51 GB of memory, at most 268.44"),
        (
            Needs(seconds=8 * 86400),
            "no node of partition main has 192 h 00 min of time for a job, at most 168 h 00 min",
        ),
        (Needs(cores=65), "no node of partition main has 65 cores, at most 64"),
        (
            Needs(gpus=2, nodes=2),
            "partition main has 1 node of this sort, and 2 are asked for",
        ),
    ],
)
def test_what_is_too_large(needs: Needs, problem: str) -> None:
    answer = too_large(needs, partition_nodes(ANSWER))
    assert answer.startswith(problem)
    assert bool(answer) == bool(problem)
