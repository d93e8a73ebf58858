"""Whose turn it is: what a plan's nodes wait for, and how much work waits for them.

Starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from olivebuild.errors import InvalidValue, RecipeError
from olivebuild.graph import Graph
from olivebuild.node import Node, amount_of
from olivebuild.plan import Plan
from olivebuild.states import Demand, State, Verdict

UNKNOWN_SECONDS = 1.0
"""What a step counts that never ran here."""


class Turns:
    """The critical path goes first: a node's weight is the longest chain of work, by what it cost
    last time, from it to a goal.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._weight: dict[str, float] = {}
        for name, state in reversed(plan.states.items()):
            works = state.verdict in (Verdict.STALE, Verdict.WAITING)
            own = (UNKNOWN_SECONDS if state.seconds is None else state.seconds) if works else 0.0
            self._weight[name] = own + max(
                (self._weight[user] for _, user in graph.users[name] if user in plan.states),
                default=0.0,
            )

    def ready(self, plan: Plan) -> list[State]:
        """What is to be run, then what is to be restored: that goes on in this process, while the
        steps run in theirs.
        """
        run = [
            s
            for s in plan.states.values()
            if s.verdict is Verdict.STALE and (s.trace is None or s.demand is not Demand.NOTHING)
        ]
        run.sort(key=lambda s: -self._weight[s.node.name])
        return run + [s for s in plan.states.values() if s.verdict is Verdict.CACHED]


class Room:
    """How much of each named resource is left.

    What has no limit has room for one unit, so that nobody shares it unawares.

    `gpu` alone may have no limit: then the executor, which knows the machine's GPUs, gives each
    action its own.
    """

    def __init__(self, limits: Mapping[str, float]) -> None:
        self._limits = dict(limits)
        self._taken: dict[str, float] = {}

    def check(self, node: Node) -> str | None:
        """What a node asks for in vain; None if nothing."""
        return next(
            (name for name, amount in self._wanted(node).items() if amount > self.limit(name)), None
        )

    def limit(self, name: str) -> float:
        return self._limits.get(name, 1.0)

    def has(self, node: Node) -> bool:
        return all(
            self._taken.get(name, 0.0) + amount <= self.limit(name)
            for name, amount in self._wanted(node).items()
        )

    def take(self, node: Node) -> None:
        for name, amount in self._wanted(node).items():
            self._taken[name] = self._taken.get(name, 0.0) + amount

    def give_back(self, node: Node) -> None:
        for name, amount in self._wanted(node).items():
            self._taken[name] -= amount

    def _wanted(self, node: Node) -> dict[str, float]:
        if "gpu" not in self._limits:
            return {name: amount for name, amount in node.resources.items() if name != "gpu"}
        return node.resources | ({"gpu": float(node.gpus)} if node.gpus else {})


def limits_of(words: tuple[str, ...], known: Mapping[str, float]) -> dict[str, float]:
    """`gpu=2`, `memory=8GB` of the command line, over what the recipe says and the machine has.

    Raises RecipeError.
    """
    limits = dict(known)
    for word in words:
        name, _, value = word.partition("=")
        try:
            limits[name] = amount_of(value)
        except InvalidValue as e:
            fact, hint = e.problem
            raise RecipeError(fact, where=f"--resource {word}", hint=hint) from None
    return limits
