"""The start of actions: space, the lock of the key, the lease of other machines, the worker.

A bucket takes some 20 ms for each request, and a lease takes two. So nodes that have space wait
here until all that can start have it, and their leases are asked for at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Protocol

from msgspec import Struct
from msgspec.structs import asdict

from olivebuild.api.executor import Executor
from olivebuild.core.errors import Damaged
from olivebuild.engine.actions import make_action
from olivebuild.engine.commit import RunningAction
from olivebuild.engine.remote.elsewhere import Elsewhere
from olivebuild.engine.scheduler import Share, Space
from olivebuild.engine.scheduling.attempts import Attempts
from olivebuild.engine.scheduling.key_locks import KeyLocks, Leaser
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State

MOST = 64
"""Nodes whose leases are asked for at once: what runs is not looked after meanwhile."""


class Remote(Leaser, Protocol):
    """What other machines are asked by, and what brings results to them."""

    def settle(self) -> None:
        """Wait until nothing is uploaded."""


class _Waiting(Struct, frozen=True, kw_only=True):
    """A node that has space and its lock on this machine."""

    state: State
    key: str
    lock: IO[bytes]
    share: Share


class Starts:
    """Starts the actions of one build.

    Sets of names that its methods return are the nodes of which something changed.
    """

    def __init__(
        self,
        planner: Planner,
        executor: Executor,
        space: Space,
        elsewhere: Elsewhere,
        *,
        attempts: Attempts,
        remote: Remote | None,
        say: Callable[..., None],
    ) -> None:
        """`say` is called with the name of an event, its node, and its data."""
        self.running: dict[str, RunningAction] = {}
        """What was started; whoever hears of its end takes it out."""
        self.locks = KeyLocks(
            planner.store, remote, lambda name: say("waiting", planner.graph.nodes[name])
        )
        self._planner = planner
        self._executor = executor
        self._space = space
        self._elsewhere = elsewhere
        self._attempts = attempts
        self._remote = remote
        self._say = say
        self._waiting: dict[str, _Waiting] = {}

    def __contains__(self, name: object) -> bool:
        """Return whether a node's action runs or is about to."""
        return name in self.running or name in self._waiting

    @property
    def are_waiting(self) -> bool:
        """Return whether nodes have space and have not started."""
        return bool(self._waiting)

    def add(self, plan: Plan, state: State) -> set[str]:
        """Start a node's action, if there is room for it, and no other build makes the same.

        It may start with the next `flush` only.
        """
        node, key, planner = state.node, state.key, self._planner
        assert key
        changed: set[str] = set()
        if not self._space.fits(plan, node):
            if not self._waiting:
                return changed
            # What waits may have to give its space back.
            changed = self.flush(plan)
            if not self._space.fits(plan, node):
                return changed
        planner.store.check_writable(f"{node.target} is not in it and would have to be built")
        lock = self.locks.take(node.name, key)
        if lock is None:
            return changed
        if state.trace is None and planner.trace(node, key):
            # Another build has made it meanwhile.
            lock.close()
            return {node.name, *changed}
        share = self._space.reserve(node)
        self._waiting[node.name] = _Waiting(state=state, key=key, lock=lock, share=share)
        if self._remote is None or node.exclusive or len(self._waiting) >= MOST:
            changed |= self.flush(plan)
        return changed

    def flush(self, plan: Plan) -> set[str]:
        """Start what waits, of which no other machine makes the same."""
        if not self._waiting:
            return set()
        leased = self.locks.lease({each.key: name for name, each in self._waiting.items()})
        changed: set[str] = set()
        for name, each in list(self._waiting.items()):
            if each.key in leased:
                changed |= self._start(plan, each)
            if name not in self.running:
                self._give_back(each)
            del self._waiting[name]
        return changed

    def drop(self) -> None:
        """Start nothing that waits."""
        while self._waiting:
            name, each = self._waiting.popitem()
            if name not in self.running:
                self._give_back(each)

    def _give_back(self, each: _Waiting) -> None:
        self._space.started(each.state.node)
        self._space.give_back(each.state.node)
        self.locks.give_back(each.key, each.lock)

    def _start(self, plan: Plan, waiting: _Waiting) -> set[str]:
        """Start a node's action; return the nodes whose results turn out to be damaged."""
        state, planner = waiting.state, self._planner
        node = state.node
        self._attempts.count(state)
        inputs = [plan.states[source.name] for _, source, _ in planner.graph.inputs[node.name]]
        planner.traces.use(s.trace for s in inputs if s.trace)
        scratch = planner.store.scratch(waiting.key)
        running = RunningAction(state=state, inputs=inputs, scratch=scratch, lock=waiting.lock)
        running.out.mkdir()
        try:
            action = make_action(planner, plan, state, running.out)
        except Damaged as e:
            # A part of the target that lies in the store alone; the bad blob is in quarantine, so
            # the next plan runs its step.
            running.close(planner.store)
            self._say("note", node, text=f"a cached part is damaged ({e}): it is built again")
            return {node.name, *(source.node.name for source in inputs)}
        action = waiting.share.of(self._elsewhere.asking(action, node))
        self.running[node.name] = running
        self._space.started(node)
        if node.exclusive and self._remote:
            self._remote.settle()
        log = planner.workspace.log_file(node.name)
        self._executor.start(action, log, [waiting.lock.fileno()])
        # Only now, so that the step need not wait for what shows this.
        told = {"reasons": [asdict(r) for r in state.reasons], "seconds": state.seconds}
        self._say("started", node, **told, **self._elsewhere.told_of(node))
        return set()
