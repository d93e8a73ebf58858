"""The build loop: dispatch, wait, commit, until all goals are there.

Decides nothing: what to do next is always the plan's word.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from olivebuild.api.action import JUDGED, METRIC, Message, Outcome
from olivebuild.api.event import Event, Listener
from olivebuild.api.executor import Executor
from olivebuild.api.node import Node
from olivebuild.core.errors import BuildError, Damaged, StoreError, of_disk
from olivebuild.core.fs import locks
from olivebuild.engine.build_report import BuildReport, plan_event
from olivebuild.engine.commit import Commit, RunningAction, remember, remember_fresh, save_all
from olivebuild.engine.early.running_gates import RunningGates
from olivebuild.engine.early.stopping import Stopping
from olivebuild.engine.failures import Failures
from olivebuild.engine.pin import BROUGHT, is_to_be_fetched, look, pin_all
from olivebuild.engine.preflight import check_locks, check_made, check_resources, sweep
from olivebuild.engine.remote.elsewhere import Elsewhere
from olivebuild.engine.scheduler import ResourcePool, Room, Space
from olivebuild.engine.scheduling.attempts import Attempts
from olivebuild.engine.scheduling.inputs import are_ready, quick_readers
from olivebuild.engine.scheduling.ready_queue import ReadyQueue
from olivebuild.engine.scheduling.starts import Starts
from olivebuild.planner.changing.changes import Changes
from olivebuild.planner.incremental import Incremental
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State, Verdict

if TYPE_CHECKING:
    from olivebuild.engine.remote.cache import RemoteCache

POLL_SECONDS = 0.1


class Builder:
    """Runs a plan to its goals, once.

    Sets of names that its methods return are the nodes of which something changed: the plan has to
    be brought up to date with them before anything else is done.
    """

    def __init__(
        self,
        planner: Planner,
        executor: Executor,
        listen: Listener,
        pool: ResourcePool | None = None,
        *,
        keep_going: bool = False,
        room: Room | None = None,
        decide: bool = False,
        remote: RemoteCache | None = None,
    ) -> None:
        """`room` is this machine's, for an executor that shares it; `decide`: `--decide`."""
        self.planner = planner
        self.executor = executor
        self.listen = listen
        self.report = BuildReport(goals=[])
        self._pool = pool or ResourcePool({})
        self._elsewhere = Elsewhere(planner, executor)
        self._space = Space(planner, executor, self._pool, room, self._elsewhere)
        self._keep_going = keep_going
        self._decide = decide
        self._remote = remote
        self._failures = Failures(planner, self.report, self._say, self._elsewhere)
        self._gates = RunningGates(planner, self._say)
        self._stopping = Stopping(planner.graph, (), self._gates)
        self._put_off: set[str] = set()
        """What was made, and is copied into build/ when others have read it."""
        self._attempts = Attempts()
        self._starts = Starts(
            planner,
            executor,
            self._space,
            self._elsewhere,
            attempts=self._attempts,
            remote=remote,
            say=self._say,
        )
        self._running, self._locks = self._starts.running, self._starts.locks

    def run(self, goals: Iterable[str], recalled: Incremental | None = None) -> BuildReport:
        """Build the goals, from what the last build knew, if that is given.

        A step that fails is in the report. Raises BuildError for what comes before, and
        FrozenNodeChanged.
        """
        self.report.goals = list(goals)
        store = self.planner.store
        check_locks(store, self.planner.workspace)
        # What a build finds in the cache is not swept away under it.
        with nullcontext() if store.read_only else locks.locked(store.builds_lock, shared=True):
            start = time.monotonic()
            self._prepare()
            try:
                self._run(recalled)
            finally:
                self._stop()
                save_all(self.planner, self.report)
            self.report.seconds = time.monotonic() - start
            return self.report

    @property
    def _may_start(self) -> bool:
        """After a failure what runs may end, but nothing new begins."""
        return self._keep_going or not self.report.errors

    def _prepare(self) -> None:
        self.planner.workspace.memo.listen = self._tell_hashing
        self.planner.workspace.recover()
        sweep(self.planner.store)
        check_resources(self.planner, self._pool, self.report.goals, self._elsewhere)

    def _run(self, recalled: Incremental | None) -> None:
        self._pin()
        self.report.plan = plan = self._plan(recalled)
        self._bring(plan)
        self._announce(plan)
        # What is missing is said at once, and before anything is fetched.
        to_fetch = {s.node.target for s in plan.states.values() if is_to_be_fetched(s)}
        self._failures.refuse(self._elsewhere.refused(plan))
        self._failures.check(plan, self.executor, to_fetch)
        self._fetch_small_files(plan)
        if plan.small:
            self._failures.check(plan)
        queue = ReadyQueue(self.planner.graph, plan)
        self._changes = Changes(plan)
        if self._decide:
            self._stopping = Stopping(self.planner.graph, self.report.goals, self._gates)
            for node, text in self._stopping.obstacles():
                self._note(node, text)
        self._stopping.look(plan)
        while True:
            changed = self._dispatch(plan, queue) or self._wait(plan)
            if changed:
                self._update(plan, changed)
            elif self._is_over(plan):
                break
        self._copy_put_off(plan)
        self.report.early = self._gates.decided
        self.report.stopped = self._stopping.stopped
        if not self.report.errors:
            check_made(plan, self._stopping.spared)
            remember_fresh(self.planner.workspace, plan)
            if self._remote:
                self._remote.use(plan)

    def _is_over(self, plan: Plan) -> bool:
        """Return whether nothing runs, or nothing that is still wanted."""
        if not (self._running or self._locks.elsewhere):
            return True
        return self._stopping.spares(plan, self._running, self._failures)

    def _bring(self, plan: Plan) -> None:
        if self._remote:
            self._remote.bring(self.planner, plan)

    # Before the loop

    def _pin(self) -> None:
        """Write into olivebuild.lock what remote sources stand for, and dates from now on."""
        for node, error in pin_all(
            self.planner,
            self.executor,
            self.report.goals,
            self.listen,
        ):
            self._failures.add(node, error)
        self.planner.dating.pinned = self._note

    def _plan(self, recalled: Incremental | None) -> Plan:
        if recalled is None:
            return self.planner.plan(self.report.goals, with_faults=True)
        self.planner.update(recalled.plan, recalled.changed)
        return recalled.plan

    def _announce(self, plan: Plan) -> None:
        event = plan_event(plan)
        self.listen(event)
        if event.data["run"]:
            for node, text in self.planner.dating.ignored(plan.lookups):
                self._note(node, text)

    def _fetch_small_files(self, plan: Plan) -> None:
        """Have the small files of the hub's models here, before weights are fetched.

        And before anything is made.
        """
        for name, state in plan.states.items():
            if self._may_start and is_to_be_fetched(state):
                try:
                    plan.small[name] = look(self.planner, self.executor, state.node, self.listen)
                except BuildError as e:
                    self._failures.add(state.node, e)

    # The loop

    def _dispatch(self, plan: Plan, queue: ReadyQueue) -> set[str]:
        """Restore what is cached, and start what there is room for."""
        self._locks.clear()
        if not self._may_start or any(a.state.node.exclusive for a in self._running.values()):
            return set()
        changed: set[str] = set()
        running = set(self._running)
        while True:
            changed |= self._offer(plan, queue, changed)
            if not self._starts.are_waiting:
                break
            # Others may have the space of those that another machine makes.
            changed |= self._starts.flush(plan)
        queue.started(self._running.keys() - running)
        return changed

    def _offer(self, plan: Plan, queue: ReadyQueue, done: Collection[str]) -> set[str]:
        """Restore what is cached, and have started what there is room for.

        Nothing of what is `done`.
        """
        changed: set[str] = set()
        graph = self.planner.graph
        taken = {action.state.key for action in self._running.values()}
        passed = {*done, *self._locks.elsewhere}
        for state in queue.ready(self._gates.deciding(), self._space.has_slot):
            name = state.node.name
            # The result of a node with the same key will do for both.
            if state.key in taken or name in self._failures or name in self._stopping.spared:
                continue
            if name in passed:
                continue
            if state.verdict is Verdict.CACHED:
                size = state.manifest.size if state.manifest else 0
                if not any(n in self._starts for n in quick_readers(graph, plan, name, size)):
                    changed |= self._restore(state)
            elif state.node.exclusive and (changed or done):
                break  # What the plan says now would be done beside what is timed.
            elif are_ready(graph, plan, state.node, self._running, self._failures):
                changed |= self._starts.add(plan, state)
                taken |= {state.key} if name in self._starts else set()
        return changed

    def _wait(self, plan: Plan) -> set[str]:
        """Wait for what happens next, at most POLL_SECONDS.

        A node whose key is locked elsewhere counts as changed after that, where it may be done.
        """
        if not self._running:
            if self._locks.elsewhere:
                time.sleep(POLL_SECONDS)
            return set(self._locks.uncertain)
        message = self.executor.wait(POLL_SECONDS)
        if message is None:
            return set(self._locks.uncertain)
        changed = self._take(plan, message)
        # A bucket is then asked once for all that has ended meanwhile.
        deadline = time.monotonic() + POLL_SECONDS
        while self._remote and changed and self._running and time.monotonic() < deadline:
            if (message := self.executor.wait(0.0)) is None:
                break
            changed |= self._take(plan, message)
        return changed

    def _take(self, plan: Plan, message: Message | Outcome) -> set[str]:
        """Take in what an action says, or how it ended."""
        if isinstance(message, Message):
            node = self._running[message.node].state.node
            if message.event == JUDGED:
                self._gates.judged(plan, node, message.data)
                self._stopping.end(plan)
            else:
                self._say(message.event, node, **message.data)
                if message.event == METRIC:
                    self._space.foresee(plan, node)
            return set()
        return self._finish(self._running.pop(message.node), message)

    def _update(self, plan: Plan, changed: set[str]) -> None:
        self.planner.update(plan, plan.with_equal_keys(changed))
        self._bring(plan)
        self._stopping.look(plan)
        is_here = any(
            plan.states[name].node.source and plan.states[name].node.kind in BROUGHT
            for name in changed
        )
        has_new_fault = any(
            plan.lookups[name].fault and name not in self._failures for name in self._changes.take()
        )
        # What was far away lies here now, and can be read; or what was there can't be any more.
        if is_here or has_new_fault:
            self._failures.check(plan)

    def _restore(self, state: State) -> set[str]:
        """Put a cached result into build/."""
        assert state.manifest
        start = time.monotonic()
        node, planner = state.node, self.planner
        self._attempts.count(state)
        planner.traces.use([state.trace] if state.trace else [])
        try:
            planner.workspace.publish(node.target, state.manifest, planner.store)
        except Damaged as e:
            # The blob is in quarantine now, so the next plan finds it missing and runs the step.
            self._note(node, f"the cached result is damaged ({e}): it is built again")
            return {node.name}
        except (BuildError, OSError) as e:
            if node.name not in self._put_off:
                raise
            self._failures.add(node, of_disk(e, node.target) if isinstance(e, OSError) else e)
            return {node.name}
        if node.name in self._put_off:
            self._put_off.discard(node.name)
            return {node.name}
        remember(planner.workspace, state, state.reasons)
        self.report.touch(node, "restored")
        self._say("restored", node, seconds=time.monotonic() - start)
        return {node.name}

    def _copy_put_off(self, plan: Plan) -> None:
        """Put into build/ what was made before the build failed, and waited for its readers."""
        for name in sorted(self._put_off):
            if plan.states[name].verdict is Verdict.CACHED and name not in self._failures:
                self._restore(plan.states[name])

    def _finish(self, running: RunningAction, outcome: Outcome) -> set[str]:
        """Take in how an action ended, and give back all that it held."""
        node = running.state.node
        self._space.give_back(node)
        try:
            self._commit(running, outcome)
        except BuildError as error:
            self._failures.add(node, error)
        except OSError as error:
            self._failures.add(node, of_disk(error, node.target))
        finally:
            running.close(self.planner.store)
            self._locks.give_back(running.state.key, running.lock)
        return {node.name}

    def _commit(self, running: RunningAction, outcome: Outcome) -> None:
        """Raises BuildError and OSError."""
        node = running.state.node
        if not running.scratch.exists():
            raise StoreError(
                f"the cache was deleted while {node.target} was being built", hint="build again"
            )
        if outcome.error:
            raise outcome.error
        graph, plan = self.planner.graph, self.report.plan

        def is_put_off(size: int) -> bool:
            if plan and quick_readers(graph, plan, node.name, size):
                self._put_off.add(node.name)
            return node.name in self._put_off

        commit = Commit(
            self.planner, running, outcome, lambda text: self._note(node, text), is_put_off
        )
        commit.run()
        if self._remote and self.report.plan:
            self._remote.upload(self.planner, self.report.plan, [node.name])
        self.report.touch(node, "ran")
        self._say("finished", node, seconds=outcome.seconds)

    # After the loop

    def _stop(self) -> None:
        """Whatever still runs was interrupted: stop it, and leave nothing of it."""
        try:
            for running in self._running.values():
                self._say("stopping", running.state.node)
        finally:
            self.executor.cancel()
        self._starts.drop()
        for running in self._running.values():
            running.close(self.planner.store)
        self._running.clear()

    # Events

    def _tell_hashing(self, path: Path, done: int, total: int) -> None:
        file = self.planner.scan.shown(path)
        self.listen(Event("hashing", {"file": file, "done": done, "total": total}))

    def _note(self, node: Node, text: str) -> None:
        self._say("note", node, text=text)

    def _say(self, name: str, node: Node, **data: object) -> None:
        self.listen(Event(name, {"target": node.target, "node": node.name, **data}))
