"""Rows that workers judge -> figures and decisions, and what `--decide` spares then."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.api.node import Node
from olivebuild.engine.early.running_gates import RunningGates
from olivebuild.engine.early.stopping import Stopping
from olivebuild.engine.failures import Failures
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project, open_project
from tests.conftest import Place
from tests.support import pretend

ROWS = 60


class Listener:
    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, name: str, node: Node, **data: Any) -> None:
        self.said.append((name, node.name, data))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [data for said, _, data in self.said if said == name]


@pytest.fixture
def project(place: Place, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A benchmark of three models, with gates on accuracy, on its drop and on a speed."""
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(place.cache))
    pretend.write_recipe(place)
    return open_project(place.folder, None)


def _judge(gates: RunningGates, plan: Plan, model: str, *, right: bool) -> None:
    node = plan.states[f"bench:accuracy.{model}"].node
    for row in range(ROWS):
        outcomes = {str(row): {"accuracy": right}}
        gates.judged(plan, node, {"data": 0, "rows": ROWS, "outcomes": outcomes})


def test_figures_and_decisions_are_told_as_rows_come(project: Project) -> None:
    listener, plan = Listener(), project.planner.plan(["bench"])
    gates = RunningGates(project.planner, listener)
    gates.look(plan)
    needed = {"bench:accuracy.onnx-int4", "bench:accuracy.merged"}
    assert gates.deciding() == needed
    _judge(gates, plan, "onnx-int4", right=True)
    figures = listener.named("figures")
    assert figures[9] | {"gates": []} == {
        "model": "onnx-int4",
        "data": "tone",
        "rows": 10,
        "of": ROWS,
        "figures": {"accuracy": 1.0},
        "gates": [],
    }
    [decided] = listener.named("decided")
    assert (decided["gate"], decided["state"], decided["of"]) == ("accuracy >= 0.8", "met", ROWS)
    # The drop waits for the other model, the speed for the table.
    assert not gates.standing("bench")
    assert gates.left_to_the_table("bench") == ["ttft_p95 <= 20ms"]
    _judge(gates, plan, "merged", right=True)
    assert [row["state"] for row in listener.named("decided")] == ["met", "undecided"]
    assert set(gates.decided) == {
        ("bench", "accuracy >= 0.8"),
        ("bench", "accuracy drop vs merged <= 0.02"),
    }
    assert not gates.standing("bench")


def test_rows_of_other_nodes_say_nothing(project: Project) -> None:
    listener, plan = Listener(), project.planner.plan(["bench"])
    gates = RunningGates(project.planner, listener)
    node = plan.states["adapter"].node
    gates.judged(plan, node, {"data": 0, "rows": 1, "outcomes": {"0": {"accuracy": True}}})
    assert not listener.said


def test_a_missed_gate_spares_what_only_the_benchmark_needs(project: Project) -> None:
    listener, goals = Listener(), ["onnx-int4", "bench"]
    plan = project.planner.plan(goals)
    gates = RunningGates(project.planner, listener)
    stopping = Stopping(project.graph, goals, gates)
    assert [text for _, text in stopping.obstacles()] == [
        "rows alone do not decide `ttft_p95 <= 20ms`: --decide ends early if one is missed"
    ]
    stopping.look(plan)
    assert not stopping.spared
    _judge(gates, plan, "onnx-int4", right=False)
    stopping.look(plan)
    assert stopping.stopped == ["bench"]
    assert {"bench", "bench:latency", "bench:accuracy.base"} <= stopping.spared
    assert stopping.spared.isdisjoint({"base", "tone", "adapter", "merged", "onnx-int4"})


def test_the_build_is_over_when_all_that_runs_is_spared(project: Project) -> None:
    from olivebuild.engine.build_report import BuildReport

    plan = project.planner.plan(["bench"])
    gates = RunningGates(project.planner, Listener())
    stopping = Stopping(project.graph, ["bench"], gates)
    failures = Failures(project.planner, BuildReport(goals=[]), Listener())
    running = ["bench:accuracy.onnx-int4"]
    assert not stopping.spares(plan, running, failures)
    _judge(gates, plan, "onnx-int4", right=False)
    stopping.look(plan)
    assert stopping.spares(plan, running, failures)


def test_a_benchmark_that_a_choice_reads_is_made_whole(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(place.cache))
    pretend.write_recipe(place, pretend.SEARCH)
    project, goals = open_project(place.folder, None), ["bench", "best"]
    plan = project.planner.plan(goals)
    gates = RunningGates(project.planner, Listener())
    stopping = Stopping(project.graph, goals, gates)
    assert "best reads its table" in next(iter(stopping.obstacles()))[1]
    _judge(gates, plan, "onnx-int8", right=False)
    stopping.look(plan)
    assert not stopping.stopped
