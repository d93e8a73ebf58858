"""`--decide`: which benchmarks have said all that their gates will say, and what that spares."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from olivebuild.api.node import Node
from olivebuild.engine.early.running_gates import RunningGates
from olivebuild.engine.failures import Failures
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import Demand, Verdict
from olivebuild.recipe.graph import Graph

LEFT = (Verdict.STALE, Verdict.WAITING, Verdict.CACHED)
"""Verdicts of what is still to be done."""


class Stopping:
    """The benchmarks among a build's goals that end when their gates stand."""

    def __init__(self, graph: Graph, goals: Iterable[str], gates: RunningGates) -> None:
        self.stopped: list[str] = []
        """The benchmarks that ended, in order."""
        self.spared: frozenset[str] = frozenset()
        """The nodes that need not be made any more."""
        self._graph = graph
        self._goals = list(goals)
        self._gates = gates

    def look(self, plan: Plan) -> None:
        """Have gates read the rows that are stored, and end the benchmarks whose gates stand."""
        self._gates.look(plan)
        self.end(plan)

    def end(self, plan: Plan) -> None:
        """End the benchmarks whose gates stand; without goals none is ended."""
        ended = [
            target
            for target in self._goals
            if target not in self.stopped
            and self._gates.standing(target)
            and not plan.states[target].has_result
            and not self.readers(target)
        ]
        if ended:
            self.stopped += ended
            rest = [goal for goal in self._goals if goal not in self.stopped]
            needed = {node.name for node in self._graph.closure(rest)}
            self.spared = frozenset(name for name in plan.states if name not in needed)

    def spares(self, plan: Plan, running: Collection[str], failed: Failures) -> bool:
        """Return whether all that runs, and all that is left to be done, need not be."""
        if not self.spared or not self.spared.issuperset(running):
            return False
        return not any(
            state.verdict in LEFT and state.demand is not Demand.NOTHING
            for name, state in plan.states.items()
            if name not in self.spared and name not in failed
        )

    def readers(self, target: str) -> list[str]:
        """Return the targets of the build that read a benchmark's table: choices."""
        needed = {node.name for node in self._graph.closure(self._goals)}
        users = [user for _, user in self._graph.users[target]]
        return [self._graph.nodes[user].target for user in users if user in needed]

    def obstacles(self) -> Iterable[tuple[Node, str]]:
        """Yield the benchmarks that will be made whole, and why."""
        for target in self._goals:
            node = self._graph.nodes[target]
            if node.kind != "benchmark":
                continue
            if readers := self.readers(target):
                yield node, f"{readers[0]} reads its table, so that --decide makes all of it"
            for gate in self._gates.left_to_the_table(target):
                yield (
                    node,
                    f"rows alone do not decide `{gate}`: --decide ends early if one is missed",
                )
