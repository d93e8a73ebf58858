"""What of a plan can be run or restored now, the critical path first."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator

from olivebuild.planner.changing.changes import Changes
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import Demand, State, Verdict
from olivebuild.recipe.graph import Graph

UNKNOWN_SECONDS = 1.0
"""The cost of a step that never ran here."""

_Entry = tuple[bool, float, int, str]
"""Whether it can wait for others, how much waits for it (negative), its place, and the node."""


class ReadyQueue:
    """The nodes of a plan that can be run or restored, in the order of the critical path.

    A node's weight is the longest chain of work from it to a goal, in seconds of the last runs, as
    it was when the build began.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._plan = plan
        self._changes = Changes(plan)
        self._weight: dict[str, float] = {}
        for name, state in reversed(plan.states.items()):
            users = [user for _, user in graph.users[name] if user in plan.states]
            path = max((self._weight[user] for user in users), default=0.0)
            self._weight[name] = _cost(state) + path
        self._place = {name: number for number, name in enumerate(plan.states)}
        self._entries: dict[str, tuple[list[_Entry], _Entry]] = {}
        """Name -> the list that it is in, and its entry there."""
        self._shared: list[_Entry] = []
        self._alone: list[_Entry] = []
        self._restore: list[_Entry] = []

    def ready(
        self, deciding: Collection[str] = (), has_slot: Callable[[], bool] = lambda: True
    ) -> Iterator[State]:
        """Yield what is to be run, heaviest first, what is to be restored, and what runs alone.

        Of a benchmark's nodes those are first that are `deciding`: gates wait for them.
        Restoring goes on in this process, while the steps run in theirs. So what is timed comes
        after it. Where there is no slot, nothing that is to be run is yielded.
        """
        self._refresh()
        states = self._plan.states
        for entries in (self._shared, self._restore, self._alone):
            ordered = entries
            if deciding and entries is self._shared:
                ordered = sorted((e[0] and e[-1] not in deciding, *e[1:]) for e in entries)
            for entry in ordered:
                if entries is not self._restore and not has_slot():
                    break
                yield states[entry[-1]]

    def started(self, names: Iterable[str]) -> None:
        """Yield nodes no more that run, until something of them changes."""
        for name in names:
            self._remove(name)

    def _remove(self, name: str) -> None:
        if before := self._entries.pop(name, None):
            entries, entry = before
            del entries[bisect_left(entries, entry)]

    def _refresh(self) -> None:
        """Bring the lists up to date with the plan."""
        for name in self._changes.take():
            self._remove(name)
            state, node = self._plan.states[name], self._plan.states[name].node
            if state.verdict is Verdict.CACHED:
                entries, weight = self._restore, 0.0
            elif _has_to_run(state):
                entries = self._alone if node.exclusive else self._shared
                weight = self._weight[name]
            else:
                continue
            measures = entries is not self._restore and node.kind.startswith("benchmark-")
            entry = (measures, -weight, self._place[name], name)
            insort(entries, entry)
            self._entries[name] = (entries, entry)


def _cost(state: State) -> float:
    """Return the seconds that a node is expected to take."""
    if state.verdict not in (Verdict.STALE, Verdict.WAITING):
        return 0.0
    return UNKNOWN_SECONDS if state.seconds is None else state.seconds


def _has_to_run(state: State) -> bool:
    if state.verdict is not Verdict.STALE:
        return False
    return state.trace is None or state.demand is not Demand.NOTHING
