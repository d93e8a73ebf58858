"""What would run and why: a verdict for every node, from keys, traces and what lies in build/.

Never executes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import cached_property
from heapq import heapify, heappop, heappush
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from olivebuild.dating import Dating
from olivebuild.errors import BuildError, Damaged, InputError
from olivebuild.graph import Graph
from olivebuild.key import Part, Reason, compare, key_of, parts_of
from olivebuild.manifest import Manifest
from olivebuild.node import Node
from olivebuild.scan import Scan
from olivebuild.store import Store
from olivebuild.trace import Trace, Traces
from olivebuild.workspace import Workspace


class Verdict(Enum):
    """FRESH: right and in place.

    CACHED: will be restored. STALE: will run. WAITING: an input is not known yet. BROKEN: one can't
    be read.
    """

    FRESH = "fresh"
    CACHED = "cached"
    STALE = "stale"
    WAITING = "waiting"
    BROKEN = "broken"


class State(Struct):
    """What is known of a node.

    `key` is None while an input has no digest; `outputs` are the content digests to key others on.
    """

    node: Node
    verdict: Verdict
    key: str | None = None
    parts: tuple[Part, ...] = ()
    trace: Trace | None = None
    manifest: Manifest | None = None
    outputs: dict[str, str] | None = None
    folder: Path | None = None
    reasons: list[Reason] = []
    seconds: float | None = None
    needed: bool = False
    """The folder must be there: for a user, or for a step that will run."""
    read: bool = False
    """Its bytes must be there, if only in the store: a step that will run reads them."""
    publish: bool = False
    """Goes into build/ when it is made now."""
    thin: bool = False
    """Known to be fresh from the last build: trace, parts and manifest were not read again; see
    memory.py.
    """
    fault: BuildError | None = None
    """Why what it reads, or is, has no digest."""


class Plan(Struct, dict=True):
    """States by node name, inputs first, for the nodes that the goals need.

    `found` is what keys and traces say of each node; `states` is that in the light of who needs it
    and of what lies in build/.
    """

    goals: list[str]
    found: dict[str, State] = {}
    states: dict[str, State] = {}
    all_targets: tuple[str, ...] = ()
    """With those of nodes that are fresh and not here; see memory.py."""
    keys_elsewhere: Mapping[str, str] = {}
    seconds_elsewhere: float = 0.0
    """What those took."""
    small: dict[str, Path] = {}
    """The folders of models of which the small files are here, and the weights are not yet."""

    def target(self, name: str) -> tuple[Verdict, list[State]]:
        """A target's verdict is the worst of its nodes'."""
        states = [self.states[n] for n in self.by_target[name]]
        order = [Verdict.BROKEN, Verdict.STALE, Verdict.WAITING, Verdict.CACHED, Verdict.FRESH]
        return min((s.verdict for s in states), key=order.index), states

    @property
    def targets(self) -> list[str]:
        return list(self.by_target)

    @property
    def fresh(self) -> list[str]:
        return [
            t
            for t in self.all_targets or self.by_target
            if t not in self.by_target or self.target(t)[0] is Verdict.FRESH
        ]

    @cached_property
    def by_target(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name, state in self.states.items():
            names.setdefault(state.node.target, []).append(name)
        return names


class Strayed(Exception):
    """A node that was to be as it was last is not: what is made from it, and is not in this plan,
    may have to be made, too.
    """


class Planner(Struct, dict=True):
    """Makes plans of one moment: `scan` is the disk as it was first seen, store and workspace are
    asked each time.
    """

    graph: Graph
    scan: Scan
    store: Store
    traces: Traces
    workspace: Workspace
    settled: frozenset[str] = frozenset()
    """Nodes whose users are not all in the graph; see memory.py.

    When one of them has to be made again, `Strayed` is raised.
    """

    @cached_property
    def dating(self) -> Dating:
        return Dating(self.graph, self.scan, self.store, self.traces)

    def plan(self, goals: Iterable[str], *, with_faults: bool = False) -> Plan:
        """Raises InputError for the first input that has no digest; `with_faults`: such a node is
        BROKEN, and the others are planned.
        """
        plan = Plan(list(goals))
        names = [node.name for node in self.graph.closure(plan.goals)]
        plan.found = {name: State(self.graph.nodes[name], Verdict.WAITING) for name in names}
        plan.states = dict(plan.found)
        self._decide(plan, names, set(names))
        if not with_faults:
            for state in plan.found.values():
                if state.fault:
                    raise state.fault
        return plan

    def plan_from(self, plan: Plan, changed: Iterable[str]) -> Plan:
        """The plan of now, given one in which all was fresh and what may have changed since."""
        self._decide(plan, changed, set())
        return plan

    def update(self, plan: Plan, changed: Iterable[str]) -> None:
        """Look again at the nodes of which something has changed, and at all that this changes: the
        plan is what a new one would be.
        """
        changed = {name for name in changed if name in plan.states}
        self._decide(plan, changed, set())

    def _decide(self, plan: Plan, changed: Iterable[str], unknown: set[str]) -> None:
        """`unknown` are the nodes of which nothing was known before, so that nothing stays as it
        was.
        """
        order = self.graph.order
        # Keys depend on what comes before, so inputs go first ...
        queue = [(order[name], name) for name in changed]
        heapify(queue)
        touched = set()
        while queue:
            _, name = heappop(queue)
            if name in touched:
                continue
            touched.add(name)
            if self._found_anew(plan, name) and name not in unknown:
                for user in self._users(plan, name):
                    heappush(queue, (order[user], user))
        # ... and who needs a folder on what comes after.
        queue = [(-order[name], name) for name in touched]
        heapify(queue)
        placed, late = set(), set()
        while queue:
            _, name = heappop(queue)
            if name in placed:
                continue
            placed.add(name)
            if plan.found[name].thin and self._found_anew(plan, name):
                # Lost since the memory was compared with the disk.
                late |= self._users(plan, name)
            before, now = plan.states[name], self._placed(plan, name)
            plan.states[name] = now
            if name in self.settled and now.verdict is Verdict.STALE:
                raise Strayed(name)
            if name not in unknown and now.verdict != before.verdict:
                for _, source, _ in self.graph.inputs[name]:
                    heappush(queue, (-order[source.name], source.name))
        if late:
            self._decide(plan, late, set())

    def _found_anew(self, plan: Plan, name: str) -> bool:
        """Look a node up. True when others must be keyed anew."""
        before = plan.found[name]
        now = plan.found[name] = self._look_up(self.graph.nodes[name], plan.found)
        if name in self.settled and now.outputs != before.outputs:
            raise Strayed(name)
        return now.outputs != before.outputs

    def _users(self, plan: Plan, name: str) -> set[str]:
        return {user for _, user in self.graph.users[name] if user in plan.found}

    def _placed(self, plan: Plan, name: str) -> State:
        found = plan.found[name]
        node, state = found.node, replace(found, reasons=list(found.reasons))
        kept = name == node.target and (node.target in plan.goals or not node.lazy)
        users = [
            (edge, plan.states[user].verdict)
            for edge, user in self.graph.users[name]
            if user in plan.states
        ]
        # One that waits may turn out fresh, so what it reads need not be there yet.
        running = [edge for edge, verdict in users if verdict is Verdict.STALE]
        state.read = bool(running)
        state.needed = kept or any(not edge.by_tensors for edge in running)
        state.publish = state.needed or any(
            verdict is Verdict.WAITING and not edge.by_tensors for edge, verdict in users
        )
        self._place(state)
        return state

    def trace(self, node: Node, key: str) -> Trace | None:
        """What is known under a key; what lacks an output of the node is not that, whoever wrote
        it.
        """
        found = self.traces.get(key)
        return None if found is None or node.outputs.keys() - found.outputs.keys() else found

    def _look_up(self, node: Node, states: dict[str, State]) -> State:
        """The key of a node and what is known under it; what can't be read is a fault of the
        node.
        """
        try:
            return self._looked_up(node, states)
        except InputError as e:
            e.target = e.target or node.target
            return State(node, Verdict.BROKEN, reasons=[Reason("fault", e.fact)], fault=e)

    def _looked_up(self, node: Node, states: dict[str, State]) -> State:
        last = self.workspace.last.get(node.name)
        before = self.traces.get(last.key) if last else None
        state = State(node, Verdict.FRESH, seconds=before.seconds if before else None)
        if node.lies_at is not None:
            state.folder = self.scan.recipe.folder / node.lies_at
            state.outputs = {"": self.scan.model(node, state.folder, code=node.trusts)}
            state.key = key_of([Part("file", "content", state.outputs[""])])
            return state
        inputs = []
        for edge, source, output in self.graph.inputs[node.name]:
            outputs = states[source.name].outputs
            if outputs is None:
                state.reasons.append(Reason("input", source.target))
            else:
                inputs.append((edge.role, outputs[output], edge.part or str(edge.ref)))
        comes_from, pin = node.source, self.scan.pin(node)
        if comes_from and pin == "":
            state.reasons.append(Reason("source", comes_from.text, None, "not pinned yet"))
        if state.reasons:
            for wanted in node.files:
                # What can't be read is said before hours of training, not after.
                self.scan.check(node, wanted)
            state.verdict = Verdict.STALE if pin == "" else Verdict.WAITING
            return state
        state.parts = parts_of(
            node,
            inputs,
            self.scan.files(node),
            pin,
            self.scan.libraries(node),
            self.scan.machine(node),
            self.dating.parts(node, states),
            self.scan.variables(node),
        )
        state.key = key_of(state.parts)
        state.trace = self.trace(node, state.key)
        if state.trace is None:
            state.verdict = Verdict.STALE
            if before:
                state.reasons = compare(before.parts, state.parts)
            elif last:
                state.reasons = [Reason("output", "the last trace", last.key, "missing")]
            else:
                state.reasons = [Reason("new", "never built here")]
            return state
        state.outputs, state.seconds = dict(state.trace.outputs), state.trace.seconds
        if state.trace.reference:
            state.folder = Path(state.trace.reference)
        return state

    def _place(self, state: State) -> None:
        """FRESH, CACHED or, when neither build/ nor the store has the bytes, STALE."""
        trace = state.trace
        # What lies in build/ must be right; a lazy target that nobody wants there need not lie
        # there.
        lies_there = (
            state.node.name == state.node.target
            and self.workspace.place(state.node.target).exists()
        )
        state.publish = state.publish or lies_there
        if trace is None:
            return
        if trace.reference:
            self._check_reference(state)
            return
        state.needed = state.needed or lies_there
        try:
            state.manifest = self.store.manifest(trace.manifest)
        except (Damaged, ValueError) as e:
            if state.needed or state.read:
                state.verdict = Verdict.STALE
                state.reasons = [Reason("output", "the cached result", trace.manifest, str(e))]
            return
        if state.node.name != state.node.target:
            # The nodes that a target is made of are not put into build/ under names of their own.
            if (state.needed or state.read) and (
                fault := self.store.missing(state.manifest, computed=not state.needed)
            ):
                state.verdict, state.reasons = (
                    Verdict.STALE,
                    [Reason("output", "the cached result", fault.blob, fault.why)],
                )
            return
        state.folder = self.workspace.place(state.node.target)
        differs = self.workspace.differs(state.node.target, state.manifest)
        if differs is None or not (state.needed or state.read):
            return
        fault = self.store.missing(state.manifest, computed=not state.needed)
        if fault is None and not state.needed:
            return
        state.verdict = Verdict.STALE if fault else Verdict.CACHED
        state.reasons = [
            differs,
            *([Reason("output", "the cached result", fault.blob, fault.why)] if fault else []),
        ]
        last = self.workspace.last.get(state.node.name)
        if last and last.key != state.key and (before := self.traces.get(last.key)):
            state.reasons = compare(before.parts, state.parts) or state.reasons

    def _check_reference(self, state: State) -> None:
        assert state.folder
        assert state.outputs
        assert state.trace
        try:
            found = self.scan.model(state.node, state.folder, code=state.node.trusts)
        except Exception:
            found = "missing"
        if found != state.outputs[""] and (state.needed or state.read):
            state.verdict = Verdict.STALE
            state.reasons = [Reason("output", str(state.folder), state.outputs[""], found)]
