"""What a node needs before it starts, and when a result is put into build/ for others.

A step that reads single tensors reads them from the cache. So it need not wait until gigabytes are
copied into build/, and where it takes less time than that, the copying waits for it: what comes of
it may be copied first.
"""

from __future__ import annotations

from collections.abc import Container

from olivebuild.api.node import Node
from olivebuild.engine.actions import asking
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import State, Verdict
from olivebuild.recipe.graph import Graph

COPIED = 1e9
"""Bytes that are copied in a second, about."""


def are_ready(
    graph: Graph, plan: Plan, node: Node, running: Container[str], failed: Container[str]
) -> bool:
    """Return whether a node's inputs are there: in build/, or in the cache if that will do.

    So have to be the data sets of the benchmarks that will ask what is made of it: their rows
    are looked at before an adapter is trained.
    """

    def is_there(name: str, *, in_cache: bool = False) -> bool:
        state = plan.states[name]
        is_cached = in_cache and state.verdict is Verdict.CACHED
        return name not in running and (is_cached or state.verdict is Verdict.FRESH)

    for edge, source, _ in graph.inputs[node.name]:
        if not is_there(source.name, in_cache=edge.streams_tensors):
            return False
    sets = (source.name for _, sources in asking(graph, plan, node) for source in sources)
    return all(name in failed or is_there(name) for name in sets)


def quick_readers(graph: Graph, plan: Plan, name: str, size: int) -> list[str]:
    """Return the nodes that read a result's tensors and take less time than copying it.

    `size` is the result's, in bytes.
    """
    users = [user for edge, user in graph.users[name] if edge.streams_tensors]
    return [user for user in users if user in plan.states and _is_quick(plan.states[user], size)]


def _is_quick(state: State, size: int) -> bool:
    return state.trace is None and state.seconds is not None and state.seconds * COPIED < size
