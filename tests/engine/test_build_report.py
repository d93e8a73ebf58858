"""What a plan is told as: the nodes that will run, and what they cost last time."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from olivebuild.api.node import Node
from olivebuild.engine.build_report import BuildReport, plan_event
from olivebuild.planner.plan import Plan
from tests.support.sites import Site


def unkeyed(node: Node) -> Node:
    """Return a node whose key holds nothing of its inputs' content."""
    return structs.replace(
        node, edges=tuple(structs.replace(edge, keyed=False) for edge in node.edges)
    )


def with_node(plan: Plan, name: str, node: Node) -> Plan:
    states = plan.states | {name: structs.replace(plan.states[name], node=node)}
    return structs.replace(plan, states=states)


def test_what_will_be_carried_over_costs_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.made("a", x="1")
    site.made("b", y="1", seconds=5.0)
    site.write("in.txt", "other")
    plan = site.plan("b")
    assert plan_event(plan).data["seconds"] == {"a": 1.0, "b": 5.0}
    carried = with_node(plan, "b", unkeyed(plan.states["b"].node))
    assert plan_event(carried).data["seconds"] == {"a": 1.0}
    # What runs for itself does run.
    first = with_node(plan, "a", unkeyed(plan.states["b"].node))
    assert plan_event(first).data["seconds"] == {"a": 1.0, "b": 5.0}


def test_what_was_never_measured_will_be(tmp_path: Path) -> None:
    plan = Site(tmp_path).plan("b")
    found = with_node(plan, "b", unkeyed(plan.states["b"].node))
    assert plan_event(found).data["seconds"] == {"a": None, "b": None}


def test_a_target_of_several_nodes_is_listed_once(tmp_path: Path) -> None:
    node = Site(tmp_path).plan("b").states["a"].node
    report = BuildReport(goals=["b"], restored=["b"])
    for name, target in (("a:1", "a"), ("a:2", "a"), ("b", "b")):
        report.touch(structs.replace(node, name=name, target=target), "ran")
    report.touch(structs.replace(node, name="b", target="b"), "restored")
    assert (report.ran, report.restored) == (["a", "b"], ["b"])
    assert report.touched == {"a:1", "a:2", "b"}
