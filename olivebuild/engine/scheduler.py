"""Scheduling: the critical path first, within the limits of resources. Starts nothing.

The learning rate and the rows of a training's steps are ml/training/schedule.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from olivebuild.api.node import Node, amount_of
from olivebuild.core.errors import InvalidValue, RecipeError
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import Demand, State, Verdict
from olivebuild.recipe.graph import Graph

UNKNOWN_SECONDS = 1.0
"""The cost of a step that never ran here."""


class ReadyQueue:
    """The nodes of a plan that can be run or restored, in the order of the critical path.

    A node's weight is the longest chain of work from it to a goal, in seconds of the last runs, as
    it was when the build began.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._plan = plan
        self._weight: dict[str, float] = {}
        for name, state in reversed(plan.states.items()):
            users = [user for _, user in graph.users[name] if user in plan.states]
            path = max((self._weight[user] for user in users), default=0.0)
            self._weight[name] = _cost(state) + path

    def ready(self) -> list[State]:
        """Return what is to be run, heaviest first, what is to be restored, and what runs alone.

        Restoring goes on in this process, while the steps run in theirs. So what is timed comes
        after it.
        """
        states = self._plan.states.values()
        run = [state for state in states if _has_to_run(state)]
        run.sort(key=lambda state: -self._weight[state.node.name])
        restore = [state for state in states if state.verdict is Verdict.CACHED]
        shared = [state for state in run if not state.node.exclusive]
        return shared + restore + [state for state in run if state.node.exclusive]


def _cost(state: State) -> float:
    """Return the seconds that a node is expected to take."""
    if state.verdict not in (Verdict.STALE, Verdict.WAITING):
        return 0.0
    return UNKNOWN_SECONDS if state.seconds is None else state.seconds


def _has_to_run(state: State) -> bool:
    if state.verdict is not Verdict.STALE:
        return False
    return state.trace is None or state.demand is not Demand.NOTHING


class ResourcePool:
    """The amount that is left of each named resource.

    What has no limit counts as one unit, so that it is not shared unawares.

    `gpu` alone may have no limit: then the executor, which knows the machine's GPUs, gives each
    action its own.
    """

    def __init__(self, limits: Mapping[str, float]) -> None:
        self._limits = dict(limits)
        self._in_use: dict[str, float] = {}

    def limit(self, name: str) -> float:
        return self._limits.get(name, 1.0)

    def exceeded_by(self, node: Node) -> str | None:
        """Return the resource of which a node takes more than there is, if any."""
        for name, amount in self._amounts(node).items():
            if amount > self.limit(name):
                return name
        return None

    def fits(self, node: Node) -> bool:
        """Return whether enough is left for a node now."""
        return all(
            self._in_use.get(name, 0.0) + amount <= self.limit(name)
            for name, amount in self._amounts(node).items()
        )

    def acquire(self, node: Node) -> None:
        for name, amount in self._amounts(node).items():
            self._in_use[name] = self._in_use.get(name, 0.0) + amount

    def release(self, node: Node) -> None:
        for name, amount in self._amounts(node).items():
            self._in_use[name] -= amount

    def _amounts(self, node: Node) -> dict[str, float]:
        if "gpu" not in self._limits:
            return {name: amount for name, amount in node.resources.items() if name != "gpu"}
        return node.resources | ({"gpu": float(node.gpus)} if node.gpus else {})


def limits_of(words: tuple[str, ...], defaults: Mapping[str, float]) -> dict[str, float]:
    """Return limits with the command line's `gpu=2` and `memory=8GB` in place of defaults.

    The recipe and the machine give the defaults.

    Raises RecipeError.
    """
    limits = dict(defaults)
    for word in words:
        name, _, value = word.partition("=")
        try:
            limits[name] = amount_of(value)
        except InvalidValue as e:
            fact, hint = e.problem
            raise RecipeError(fact, where=f"--resource {word}", hint=hint) from None
    return limits
