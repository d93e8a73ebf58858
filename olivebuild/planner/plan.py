"""The analysis of a build: a verdict for every node, and the reasons for it.

It follows from keys, traces and what lies in build/. Nothing is executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from olivebuild.api.node import Node
from olivebuild.cache.key import Reason, compare
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core.errors import Damaged, InputError
from olivebuild.planner.changing.changes import KeyIndex, StaleKinds
from olivebuild.planner.changing.worklist import Worklist
from olivebuild.planner.scan import Scan
from olivebuild.planner.states import WORST_FIRST, Demand, Lookup, State, Verdict
from olivebuild.planner.template_dates import Dating
from olivebuild.planner.trace_lookup import TraceFinder
from olivebuild.planner.workspace import Workspace
from olivebuild.recipe.graph import Graph


class Plan(Struct, dict=True, kw_only=True):
    """The nodes that the goals need, inputs first: their lookups and their states, by name."""

    goals: list[str]
    lookups: dict[str, Lookup] = {}
    states: dict[str, State] = {}
    all_targets: tuple[str, ...] = ()
    """With those of nodes that are fresh and not in this plan; see incremental.py."""
    keys_elsewhere: Mapping[str, str] = {}
    """node -> key of those nodes."""
    seconds_elsewhere: float = 0.0
    """The wall time of their last runs."""
    small: dict[str, Path] = {}
    """The folders of models of which the small files are here, and the weights are not yet."""
    changes: list[str] = []
    """Names of nodes that were looked up or decided on again, in order; see changes.py."""

    @staticmethod
    def unknown(goals: list[str], nodes: Iterable[Node]) -> Plan:
        """Return a plan of nodes of which nothing is known."""
        plan = Plan(goals=goals)
        for node in nodes:
            lookup = Lookup(node=node, verdict=Verdict.WAITING)
            plan.lookups[node.name] = lookup
            plan.states[node.name] = State.of(lookup)
        return plan

    def target(self, name: str) -> tuple[Verdict, list[State]]:
        """Return a target's verdict, the worst of its nodes', and the states of its nodes."""
        states = [self.states[n] for n in self.by_target[name]]
        return min((s.verdict for s in states), key=WORST_FIRST.index), states

    @property
    def targets(self) -> list[str]:
        return list(self.by_target)

    @property
    def fresh(self) -> list[str]:
        """The targets that are fresh, those of nodes that are not in this plan included."""
        return [
            t
            for t in self.all_targets or self.by_target
            if t not in self.by_target or self.target(t)[0] is Verdict.FRESH
        ]

    @cached_property
    def goal_set(self) -> frozenset[str]:
        return frozenset(self.goals)

    @cached_property
    def by_target(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name, state in self.states.items():
            names.setdefault(state.node.target, []).append(name)
        return names

    @cached_property
    def by_key(self) -> KeyIndex:
        return KeyIndex(self)

    @cached_property
    def stale_kinds(self) -> StaleKinds:
        return StaleKinds(self)

    def with_equal_keys(self, names: Iterable[str]) -> set[str]:
        """Return the names, and those of nodes with the same keys: they have the same results."""
        return self.by_key.with_equal_keys(names)


class FrozenNodeChanged(Exception):
    """A node of a part of the graph is not as it was in the last build.

    It has users outside of that part, which may be out of date for it: only a plan of the whole
    graph is right.
    """


class Planner(Struct, dict=True, kw_only=True):
    """Makes plans of one moment.

    `scan` is the disk as it was first seen, store and workspace are asked each time.
    """

    graph: Graph
    scan: Scan
    store: Store
    traces: Traces
    workspace: Workspace
    frozen: frozenset[str] = frozenset()
    """Nodes that may have users outside of the graph; see incremental.py.

    `FrozenNodeChanged` is raised when one of them has other outputs than before, or has to be made.
    """

    @cached_property
    def dating(self) -> Dating:
        return Dating(self.graph, self.scan, self.store, self.traces)

    @cached_property
    def _finder(self) -> TraceFinder:
        return TraceFinder(
            graph=self.graph,
            scan=self.scan,
            traces=self.traces,
            workspace=self.workspace,
            dating=self.dating,
        )

    def refuse(self, key: str, trace: Trace) -> None:
        """Let a result count no more in this build; `update` is to be called with its nodes."""
        self._finder.refused[key] = trace

    def trace(self, node: Node, key: str) -> Trace | None:
        """Return the trace under a key of a node, if there is one with all of its outputs."""
        return self._finder.trace(node, key)

    def plan(self, goals: Iterable[str], *, with_faults: bool = False) -> Plan:
        """Return a plan of all that the goals need.

        Raises InputError for the first input that has no digest. Using `with_faults`, such a node
        is BROKEN instead, and the others are planned.
        """
        goals = list(goals)
        plan = Plan.unknown(goals, self.graph.closure(goals))
        self._refresh(plan, plan.lookups)
        if not with_faults:
            for lookup in plan.lookups.values():
                if lookup.fault:
                    raise lookup.fault
        return plan

    def update(self, plan: Plan, changed: Iterable[str]) -> None:
        """Bring a plan up to date after something of the nodes `changed` has changed.

        Afterwards it equals a new one. Raises FrozenNodeChanged.
        """
        self._refresh(plan, plan.states.keys() & changed)

    def _refresh(self, plan: Plan, names: Iterable[str]) -> None:
        """Look at nodes again, and at all that this changes.

        Keys flow from inputs to users, and demand from users to inputs. Either stops where nothing
        changes.
        """
        changed = set(names)
        while changed:
            visited = self._refresh_lookups(plan, changed)
            changed = self._refresh_states(plan, visited)

    def _refresh_lookups(self, plan: Plan, names: Iterable[str]) -> set[str]:
        """Look nodes up again, and the users of those whose outputs changed.

        Returns the nodes that were looked up.
        """
        visited = set()
        worklist = Worklist(self.graph.order, names)
        for name in worklist:
            visited.add(name)
            if self._look_up_again(plan, name):
                worklist.add(self._users(plan, name))
        return visited

    def _refresh_states(self, plan: Plan, names: Iterable[str]) -> set[str]:
        """Decide anew on nodes, and on the inputs of those whose verdicts changed.

        Returns the users of results that turned out to be lost: they have to be looked up again.
        """
        lost = set()
        worklist = Worklist(self.graph.order, names, upwards=True)
        for name in worklist:
            # What the last build knew was compared with the disk a while ago, and nothing was read
            # since.
            if plan.lookups[name].from_db and self._look_up_again(plan, name):
                lost |= self._users(plan, name)
            before, now = plan.states[name], self._state_for(plan, name)
            plan.states[name] = now
            plan.changes.append(name)
            if name in self.frozen and now.verdict is Verdict.STALE:
                raise FrozenNodeChanged(name)
            if now.verdict is not before.verdict:
                worklist.add(source.name for _, source, _ in self.graph.inputs[name])
        return lost

    def _users(self, plan: Plan, name: str) -> set[str]:
        return {user for _, user in self.graph.users[name] if user in plan.lookups}

    def _look_up_again(self, plan: Plan, name: str) -> bool:
        """Look a node up. Returns whether its outputs changed, so that its users get new keys."""
        before = plan.lookups[name]
        plan.changes.append(name)
        now = plan.lookups[name] = self._finder.look_up(self.graph.nodes[name], plan.lookups)
        if now.outputs == before.outputs:
            return False
        if name in self.frozen:
            raise FrozenNodeChanged(name)
        return True

    def _state_for(self, plan: Plan, name: str) -> State:
        """Return the state of a node, given the states of its users."""
        demand, expected = self._demand(plan, name)
        return self._verdict(plan.lookups[name], demand, expected)

    def _demand(self, plan: Plan, name: str) -> tuple[Demand, Demand]:
        """Return the demand for a node, and the one to expect.

        That is known when it is known which of the nodes that wait will run.
        """
        node = self.graph.nodes[name]
        is_wanted = name == node.target and (not node.lazy or node.target in plan.goal_set)
        demand = expected = Demand.FOLDER if is_wanted else Demand.NOTHING
        for edge, user in self.graph.users[name]:
            state = plan.states.get(user)
            wish = Demand.BYTES if edge.streams_tensors else Demand.FOLDER
            if state and state.verdict is Verdict.STALE:
                demand = max(demand, wish)
            elif state and state.verdict is Verdict.WAITING:
                # It may turn out to be fresh, so what it reads need not be there yet.
                expected = max(expected, wish)
        return demand, max(demand, expected)

    def _verdict(self, lookup: Lookup, demand: Demand, expected: Demand) -> State:
        """Return the state of a node, given the demand for it.

        Pure but for what it asks of store and workspace.
        """
        node, trace = lookup.node, lookup.trace
        is_target = node.name == node.target
        # What lies in build/ must be right, also where nobody wants it there any more.
        in_build = is_target and self.workspace.output_folder(node.target).exists()
        publish = in_build or expected is Demand.FOLDER
        if trace and in_build and not trace.reference:
            demand = Demand.FOLDER
        state = State.of(lookup, demand=demand, publish_when_built=publish)
        if trace is None:
            return state
        if trace.reference:
            return self._with_reference(state)
        try:
            manifest = self.store.manifest(trace.manifest)
        except (Damaged, ValueError) as e:
            if demand is Demand.NOTHING:
                return state
            return _stale(state, Reason("output", "the cached result", trace.manifest, str(e)))
        state = replace(state, manifest=manifest)
        if is_target:
            return self._with_folder(state, manifest)
        return self._with_blobs(state, manifest)

    def _with_reference(self, state: State) -> State:
        """Return the state of a node whose result is a folder elsewhere.

        The folder has to be as it was.
        """
        assert state.folder
        assert state.outputs
        try:
            content = self.scan.model(state.node, state.folder, code=state.node.trusts_remote_code)
        except (InputError, OSError, ValueError):
            # ValueError: a path that the system can't have. Any other error is a fault of ours.
            content = "missing"
        expected = state.outputs[""]
        if content == expected or state.demand is Demand.NOTHING:
            return state
        return _stale(state, Reason("output", str(state.folder), expected, content))

    def _with_blobs(self, state: State, manifest: Manifest) -> State:
        """Return the state of a part of a target, which is never put into build/.

        Its blobs are enough.
        """
        if state.demand is Demand.NOTHING:
            return state
        lost = self._why_lost(manifest, state.demand)
        return _stale(state, lost) if lost else state

    def _with_folder(self, state: State, manifest: Manifest) -> State:
        """Return the state of a target that has a result in the store.

        What of it is wanted is in place, can be restored from the store, or has to be made again.
        """
        target = state.node.target
        state = replace(state, folder=self.workspace.output_folder(target))
        if state.demand is Demand.NOTHING:
            return state
        difference = self.workspace.differs(target, manifest)
        if difference is None:
            return state
        lost = self._why_lost(manifest, state.demand)
        if lost is None and state.demand is Demand.BYTES:
            return state
        reasons = self._why_other_key(state) or (difference, *([lost] if lost else []))
        return replace(state, verdict=Verdict.STALE if lost else Verdict.CACHED, reasons=reasons)

    def _why_lost(self, manifest: Manifest, demand: Demand) -> Reason | None:
        """Return what the store lacks of a node's result.

        Tensors that can be computed are enough for a demand of BYTES.
        """
        fault = self.store.missing(manifest, computed=demand is Demand.BYTES)
        return Reason("output", "the cached result", fault.blob, fault.why) if fault else None

    def _why_other_key(self, state: State) -> tuple[Reason, ...]:
        """Return how the key of a node differs from that of its last result here, if it does."""
        last = self.workspace.last.get(state.node.name)
        if last is None or last.key == state.key:
            return ()
        trace = self.traces.get(last.key)
        return tuple(compare(trace.parts, state.parts)) if trace else ()


def _stale(state: State, reason: Reason) -> State:
    return replace(state, verdict=Verdict.STALE, reasons=(reason,))
