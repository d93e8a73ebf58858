"""Processes for what comes after a training: which, and when."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from olivebuild.api.node import Node
from olivebuild.core import host
from olivebuild.engine.scheduling import foresight
from olivebuild.engine.scheduling.foresight import RUNTIME, Foresight
from olivebuild.planner.plan import Plan, Planner
from tests.support.sites import Site

RECIPE = """\
targets:
  adapter: {kind: command, run: "x adapter", files: [in.txt], outputs: {o: o.txt}}
  onnx: {kind: command, run: "x onnx", inputs: [adapter.o], outputs: {o: o.txt}}
  bench: {kind: command, run: "x bench", inputs: [onnx.o], outputs: {o: o.txt}}
  check: {kind: command, run: "x check", inputs: [onnx.o], outputs: {o: o.txt}}
"""


class Executor:
    """Notes what it is to expect."""

    def __init__(self) -> None:
        self.expected: list[tuple[set[str], list[str], int]] = []

    def expect(self, kinds: Collection[str], modules: Sequence[str], *, gpus: int) -> None:
        self.expected.append((set(kinds), list(modules), gpus))


class Devices:
    def __init__(self, *on_gpu: str) -> None:
        self.on_gpu = on_gpu

    def needs_gpu(self, node: Node, model: Node | None) -> bool:
        return node.name in self.on_gpu


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Planner, Plan]:
    # These are commands in a benchmark's place: what they judge decides nothing here.
    monkeypatch.setattr(foresight, "judged_model", lambda graph, node: None)
    planner = Site(tmp_path, RECIPE).planner()
    plan = planner.plan(["bench", "check"])
    for name, kind in (("bench", "benchmark-accuracy"), ("check", "benchmark-check")):
        state = plan.states[name]
        node = replace(state.node, kind=kind, gpu=True, reuses_worker=True)
        plan.states[name] = replace(state, node=node)
    training = plan.states["adapter"]
    node = replace(training.node, gpu=True)
    plan.states["adapter"] = replace(training, node=node)
    return planner, plan


def start(planned: tuple[Planner, Plan], *on_gpu: str) -> list[Any]:
    planner, plan = planned
    executor: Any = Executor()
    ahead = Foresight(planner.graph, executor)
    for _ in range(2):
        # The second time there is a process for each already.
        ahead.trains(plan, plan.states["adapter"].node, Devices(*on_gpu))
    planner.traces.close()
    return [(kinds, RUNTIME in modules, gpus) for kinds, modules, gpus in executor.expected]


def test_judges_get_a_process_each_with_and_without_a_gpu(planned: tuple[Planner, Plan]) -> None:
    judges = {"benchmark-accuracy", "benchmark-check"}
    assert start(planned, "adapter", "check") == [
        ({"benchmark-accuracy"}, True, 0),
        (judges, False, 1),
    ]


@pytest.mark.parametrize("on_gpu", [(), ("check",)])
def test_nothing_is_started_beside_what_needs_the_processor(
    planned: tuple[Planner, Plan], on_gpu: tuple[str, ...]
) -> None:
    assert start(planned, *on_gpu) == []


def test_nothing_is_started_where_memory_is_short(
    planned: tuple[Planner, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "available_memory", lambda: foresight.MEMORY)
    assert start(planned, "adapter", "check") == []
