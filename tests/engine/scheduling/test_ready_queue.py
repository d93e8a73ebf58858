"""What can be run: in which order, and brought up to date with its plan."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from olivebuild.engine.scheduling.ready_queue import ReadyQueue
from tests.support.sites import Site

RECIPE = """\
targets:
  leaf: {kind: command, run: "x leaf", files: [in.txt], outputs: {o: o.txt}}
  first: {kind: command, run: "x first", files: [in.txt], outputs: {o: o.txt}}
  second: {kind: command, run: "x second", inputs: [first.o], outputs: {o: o.txt}}
"""


def names(queue: ReadyQueue, *, has_slot: bool = True, deciding: tuple[str, ...] = ()) -> list[str]:
    return [state.node.name for state in queue.ready(deciding, lambda: has_slot)]


def test_what_most_waits_for_is_first(tmp_path: Path) -> None:
    site = Site(tmp_path, RECIPE)
    planner = site.planner()
    plan = planner.plan(["leaf", "second"])
    queue = ReadyQueue(planner.graph, plan)
    # `second` waits for its input.
    assert names(queue) == ["first", "leaf"]
    assert names(queue, deciding=("leaf",)) == ["first", "leaf"]
    assert names(queue, has_slot=False) == []
    # What runs is passed over until something of it changes.
    queue.started(["first", "second"])
    assert names(queue) == ["leaf"]
    site.made("first", publish=False, o="text")
    planner.update(plan, ["first"])
    assert names(queue) == ["leaf", "second", "first"]
    # What is cached needs no slot.
    assert names(queue, has_slot=False) == ["first"]
    planner.traces.close()


def test_parts_of_benchmarks_come_last_unless_gates_wait(tmp_path: Path) -> None:
    planner = Site(tmp_path, RECIPE).planner()
    plan = planner.plan(["leaf", "second"])
    for name in ("first",):
        state = plan.states[name]
        plan.states[name] = replace(state, node=replace(state.node, kind="benchmark-accuracy"))
    queue = ReadyQueue(planner.graph, plan)
    assert names(queue) == ["leaf", "first"]
    assert names(queue, deciding=("first",)) == ["first", "leaf"]
    planner.traces.close()
