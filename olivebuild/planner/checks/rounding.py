"""Checks of conversions that round otherwise than an adapter was trained for (`aware`)."""

from __future__ import annotations

from collections.abc import Iterator

from olivebuild.api.node import Node
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict
from olivebuild.recipe.graph import Graph
from olivebuild.steps.parts.rounding import differences


def problems(planner: Planner, plan: Plan) -> list[PlanFinding]:
    """Return a note for each `onnx` node that would run and rounds otherwise."""
    return [
        PlanFinding(
            target=state.node.target,
            where=planner.scan.recipe.where(state.node.target, ("precision",)),
            fact=f"{adapter.target} was trained for another rounding: {', '.join(other)}",
            hint=f"write the same options here and in {adapter.target}'s `aware`",
            nodes=(name,),
            fails=False,
        )
        for name, state in plan.states.items()
        if state.node.kind == "onnx" and state.verdict in (Verdict.STALE, Verdict.WAITING)
        for adapter in _aware_adapters(planner.graph, name)
        if (other := differences(adapter.fields["aware"], state.node.fields))
    ]


def _aware_adapters(graph: Graph, name: str) -> Iterator[Node]:
    """Yield the adapters with `aware` that were merged into the model of a node."""
    for edge, node, _ in graph.inputs.get(name, ()):
        if edge.role == "adapter" and node.fields.get("aware"):
            yield node
        elif edge.role == "model" and node.kind == "merged":
            yield from _aware_adapters(graph, node.name)
