"""Where nodes run: on this machine, or by an executor of the recipe.

No part of a key: a node has the same result wherever it runs. A few can't run elsewhere, and a
plan says which, and why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from olivebuild.core.errors import RecipeError
from olivebuild.core.text import did_you_mean

if TYPE_CHECKING:
    from olivebuild.api.node import Node
    from olivebuild.recipe.graph import Graph

LOCAL = "local"
"""The kind of executor that is this machine, and the name for `--executor` that means it."""


class Placement(NamedTuple):
    """The executor of each node that is to run elsewhere, and what a plan says of it."""

    routes: dict[str, str] = {}
    """Node -> name of an executor."""
    sent: tuple[tuple[str, str], ...] = ()
    """(target, a line on what runs elsewhere)."""
    kept: tuple[tuple[str, str], ...] = ()
    """(target, a line on what the recipe would have elsewhere, and can't be there)."""


def place(graph: Graph, goals: Iterable[str], asked: str = "") -> Placement:
    """Return where the nodes of goals run.

    `asked`: the executor of the command line, which takes what is heavy of the targets that name
    none; `local` has all run here. Raises RecipeError for an executor that the recipe lacks.
    """
    if asked == LOCAL or not (asked or graph.names_executors):
        return Placement()
    kinds = {t.executor: t.executor_kind for t in graph.targets.values() if t.executor}
    if asked and asked not in kinds:
        kinds[asked] = _kind_of(graph, asked)
    routes: dict[str, str] = {}
    stays: dict[tuple[str, str], str] = {}
    for node in graph.closure(goals):
        executor = graph.targets[node.target].executor or (asked if is_heavy(node) else "")
        if not executor or kinds[executor] == LOCAL:
            continue
        if because := stays_here(node):
            if graph.targets[node.target].executor:
                stays[node.target, executor] = because
        else:
            routes[node.name] = executor
    kept = tuple(
        (target, f"{target} {because}: that is not done on {executor}")
        for (target, executor), because in stays.items()
    )
    return Placement(routes, _sent(graph, routes, kinds), kept)


def _kind_of(graph: Graph, name: str) -> str:
    machine = graph.recipe.executors.get(name)
    if machine is None:
        hint = did_you_mean(name, [LOCAL, *graph.recipe.executors])
        raise RecipeError(f"unknown executor {name!r}", where="--executor", hint=hint)
    return machine.kind


def is_heavy(node: Node) -> bool:
    """Return whether `--executor` takes a node whose target names no executor.

    It takes what computes for long, and leaves merges, conversions and copies here.
    """
    return node.computes and not node.reuses_worker and not stays_here(node)


def stays_here(node: Node) -> str:
    """Return what a node does that can't be done elsewhere; "" where it can run there."""
    if node.machine_bound or node.exclusive:
        return "measures the speed of this machine"
    if node.referenced_folder or node.source:
        return "is read from its source"
    return ""


def _sent(
    graph: Graph, routes: dict[str, str], kinds: dict[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return for each executor a target, and a line on all that run there."""
    named: dict[str, dict[str, None]] = {}
    for node, executor in routes.items():
        named.setdefault(executor, {})[graph.nodes[node].target] = None
    return tuple(
        (
            next(iter(targets)),
            f"{', '.join(targets)} {'runs' if len(targets) == 1 else 'run'} on {executor} "
            f"({kinds[executor]})",
        )
        for executor, targets in named.items()
    )
