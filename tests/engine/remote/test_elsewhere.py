"""Nodes that another machine makes: they take nothing of this one, and are refused before anything
runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.event import Event
from olivebuild.api.executor import Requirements
from olivebuild.api.node import Node
from olivebuild.api.result import Result
from olivebuild.api.site import Needs, SiteRequirements
from olivebuild.core.errors import BuildError, StepError
from olivebuild.engine.builder import Builder
from olivebuild.engine.remote.elsewhere import Elsewhere, needs_of, without_machine
from olivebuild.engine.scheduler import ResourcePool, Room
from tests.support.sites import Site

RECIPE = """\
targets:
  a: {kind: command, run: "cp {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  b:
    kind: command
    run: "cp {inputs.a} {outputs.y}"
    inputs: {a: a.x}
    outputs: {y: y.txt}
    resources: {gpu: 4, memory: 900GB, cores: 64, licence: 1}
"""


class Cluster:
    """An executor that makes `b` on another machine, and tells what it was asked."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.asked: list[dict[str, SiteRequirements]] = []
        self.actions: list[Action] = []

    def place_of(self, node: str) -> str:
        return "cluster" if node == "b" else ""

    def refusals(self, wanted: Mapping[str, SiteRequirements]) -> dict[str, BuildError]:
        self.asked.append(dict(wanted))
        error = StepError(self.refuses, hint="ask for less")
        return dict.fromkeys(wanted, error) if self.refuses else {}

    def prepare(self, modules: Sequence[str]) -> None: ...

    def can_start(self, action: Requirements) -> bool:
        return True

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        self.actions.append(action)

    def wait(self, seconds: float) -> Message | Outcome | None:
        action = self.actions[-1]
        for name in action.fields["outputs"].values():  # type: ignore[attr-defined]
            Path(action.out, name).write_text(action.node)
        return Outcome(action.node, 1.0, result=Result())

    def cancel(self) -> None: ...


def build(site: Site, executor: Cluster, limits: Mapping[str, float]) -> tuple[Any, list[Event]]:
    planner, events = site.planner(), list[Event]()
    pool = ResourcePool(limits)
    builder = Builder(planner, executor, events.append, pool, room=Room(1, pool))
    try:
        return builder.run(["b"]), events
    finally:
        planner.traces.close()


def test_what_a_site_makes_takes_nothing_of_this_machine(tmp_path: Path) -> None:
    site, cluster = Site(tmp_path, RECIPE), Cluster()
    report, events = build(site, cluster, {"cores": 1, "memory": 1e12, "gpu": 0})
    assert report.ran == ["a", "b"]
    assert [*cluster.asked[0]] == ["b"]
    needs = cluster.asked[0]["b"].needs
    assert needs == Needs(gpus=4, cores=64, memory=900_000_000_000)
    assert cluster.actions[0].elsewhere is None
    assert cluster.actions[1].elsewhere == cluster.asked[0]["b"]
    started = [event.data.get("executor") for event in events if event.name == "started"]
    assert started == [None, "cluster"]
    # A second build asks nobody.
    assert build(site, cluster, {"cores": 1, "memory": 1e12, "gpu": 0})[0].ran == []
    assert len(cluster.asked) == 1


def test_what_it_refuses_is_said_before_anything_runs(tmp_path: Path) -> None:
    site, cluster = Site(tmp_path, RECIPE), Cluster("it has 2 GPUs")
    report, _ = build(site, cluster, {"cores": 1, "memory": 1e12})
    assert (report.ran, cluster.actions) == ([], [])
    (error,) = report.errors
    assert error.fact == "it has 2 GPUs"
    assert str(error.where) == "olivebuild.yaml:3:3"
    assert report.failed == ["b"]


def test_what_it_shares_here_is_shared(tmp_path: Path) -> None:
    node = Node("b", "b", "command", 1, {}, resources={"gpu": 4, "licence": 2, "time": 3600})
    assert without_machine(node).resources == {"licence": 2}
    assert ResourcePool({}).exceeded_by(without_machine(node)) == "licence"
    # A cluster's time and nodes are no amount of anything here.
    assert ResourcePool({"licence": 2, "gpu": 4}).exceeded_by(node) is None


@pytest.mark.parametrize(
    ("resources", "needs"),
    [
        ({}, Needs()),
        ({"gpu": 1.5}, Needs(gpus=2)),
        ({"time": 90.0, "nodes": 2.0}, Needs(seconds=90, nodes=2)),
    ],
)
def test_what_a_node_needs(resources: dict[str, float], needs: Needs) -> None:
    node = replace(Node("b", "b", "adapter", 1, {}), resources=resources, gpu=True)
    assert needs_of(node) == needs


def test_an_executor_of_this_machine_has_nothing_elsewhere(tmp_path: Path) -> None:
    site = Site(tmp_path)
    planner = site.planner()
    elsewhere = Elsewhere(planner, object())
    plan = planner.plan(["c"])
    planner.traces.close()
    assert not elsewhere
    assert elsewhere.names(plan) == frozenset()
    assert list(elsewhere.refused(plan)) == []
