"""Plan -> start -> wait -> store, until all goals are there.

Decides nothing: what to do next is always the plan's word.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from msgspec import Struct
from msgspec.structs import asdict

from olivebuild import digest, locks, numerics, workspaces
from olivebuild.actions import asking, make_action, trusts
from olivebuild.errors import BuildError, Damaged, InputError, StepError, StoreError, of_disk
from olivebuild.events import Event, Listener
from olivebuild.executor import ANY, Executor, Message, Outcome
from olivebuild.incremental import Incremental
from olivebuild.key import Reason
from olivebuild.locks import try_lock
from olivebuild.manifest import Manifest
from olivebuild.node import Node
from olivebuild.pinning import look, pin_all
from olivebuild.plan import Plan, Planner
from olivebuild.preparing import check_locks, check_room, sweep
from olivebuild.states import Demand, State, Verdict
from olivebuild.trace import Trace
from olivebuild.turns import Room, Turns
from olivebuild.workspace import Last

POLL_SECONDS = 0.1
MAX_ATTEMPTS = 4
BROUGHT = ("model", "merged")


class Report(Struct):
    """What a build did, by target, in order."""

    goals: list[str]
    plan: Plan | None = None
    ran: list[str] = []
    restored: list[str] = []
    failed: list[str] = []
    errors: list[BuildError] = []
    touched: set[str] = set()
    """The nodes that were made, or put into build/."""
    seconds: float = 0.0

    @property
    def fresh(self) -> list[str]:
        touched = {*self.ran, *self.restored, *self.failed}
        return [t for t in self.plan.fresh if t not in touched] if self.plan else []


class Running(Struct):
    """An action under way: `inputs` are its inputs as they were when it began."""

    state: State
    scratch: Path
    lock: IO[bytes]
    inputs: list[State]


class Build:
    def __init__(
        self,
        planner: Planner,
        executor: Executor,
        listen: Listener,
        room: Room | None = None,
        *,
        keep_going: bool = False,
    ) -> None:
        self.planner = planner
        self.executor = executor
        self.listen = listen
        self._running: dict[str, Running] = {}
        self._waiting: set[str] = set()
        """Nodes whose key another build is making, as of the last look."""
        self._said_waiting: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._room = room or Room({})
        self._keep_going = keep_going
        self._failed: set[str] = set()
        """Nodes that failed, or that nothing but these needs."""
        self._told: set[str] = set()
        """What was said of the models."""

    def run(self, goals: Iterable[str], recalled: Incremental | None = None) -> Report:
        """Build the goals.

        Raises nothing for a step that failed (it is in the report); raises BuildError for what
        comes before.
        """
        store = self.planner.store
        check_locks(store, self.planner.workspace)
        # What a build finds in the cache is not swept away under it.
        with nullcontext() if store.read_only else locks.locked(store.builds_lock, shared=True):
            return self._run(Report(list(goals)), recalled)

    def _run(self, report: Report, recalled: Incremental | None) -> Report:
        start = time.monotonic()
        self.planner.workspace.memo.listen = self._hashing
        self.planner.workspace.recover()
        sweep(self.planner.store)
        check_room(self.planner, self._room, report.goals)
        try:
            for node, error in pin_all(
                self.planner, self.executor, report.goals, self.listen, keep_going=self._keep_going
            ):
                self._fail(node, error, report)
            self.planner.dating.pinned = lambda node, text: self._say("note", node, text=text)
            if recalled:
                plan = recalled.plan
                self.planner.update(plan, recalled.changed)
            else:
                plan = self.planner.plan(report.goals, with_faults=True)
            report.plan = plan
            self._announce(plan)
            self._look_ahead(plan, report)
            self._check(plan, report)
            turns = Turns(self.planner.graph, plan)
            while True:
                # After a failure what runs may end, but nothing new begins.
                going = self._keep_going or not report.errors
                changed = self._act(plan, turns, report) if going else set()
                if not going:
                    self._waiting.clear()
                if not self._running and not changed and not self._waiting:
                    break
                if self._running and not changed:
                    changed = self._handle(self.executor.wait(POLL_SECONDS), report)
                elif self._waiting and not changed:
                    time.sleep(POLL_SECONDS)
                    changed = set(self._waiting)
                if changed:
                    self.planner.update(plan, plan.with_equal_keys(changed))
                    brought = any(
                        plan.states[name].node.source and plan.states[name].node.kind in BROUGHT
                        for name in changed
                    )
                    if brought or any(
                        s.fault for name, s in plan.lookups.items() if name not in self._failed
                    ):
                        # What was far away lies here now, and can be read; or what was there can't
                        # any more.
                        self._check(plan, report)
            left = [
                s.node.target
                for s in plan.states.values()
                if s.demand is Demand.FOLDER and s.verdict is not Verdict.FRESH
            ]
            if left and not report.errors:
                raise StepError(
                    f"{left[0]} could not be made, and no step says why",
                    hint="this is a fault of olivebuild; please report it",
                )
            if not report.errors:
                self._remember_fresh(plan)
        finally:
            self._stop()
            self._save(report)
        report.seconds = time.monotonic() - start
        return report

    def _look_ahead(self, plan: Plan, report: Report) -> None:
        """Have the small files of the hub's models here, before weights are fetched and anything is
        made.
        """
        for name, state in plan.states.items():
            node, going = state.node, self._keep_going or not report.errors
            if (
                going
                and state.verdict is Verdict.STALE
                and node.kind in BROUGHT
                and node.source
                and node.source.scheme == "hf"
                and state.key
            ):
                try:
                    plan.small[name] = look(self.planner, self.executor, node, self.listen)
                except BuildError as e:
                    self._fail(node, e, report)

    def _check(self, plan: Plan, report: Report) -> None:
        """Tell what can't be read, or made of the models at hand, before hours go into it; what
        only such steps would read is not made either.
        """
        if not any(
            s.verdict in (Verdict.STALE, Verdict.WAITING, Verdict.BROKEN)
            for s in plan.states.values()
        ):
            return
        from olivebuild.findings import problems, waiting_for

        for problem in problems(self.planner, plan):
            nodes = [plan.states[name].node for name in problem.nodes if name not in self._failed]
            if problem.fact in self._told or not nodes:
                continue
            self._told.add(problem.fact)
            if not problem.fails:
                self._say(
                    "note",
                    nodes[0],
                    text=problem.fact if not problem.hint else f"{problem.fact}: {problem.hint}",
                )
                continue
            report.errors.append(problem.error())
            for node in nodes:
                self._failed.add(node.name)
                if node.target not in report.failed:
                    report.failed.append(node.target)
                    self._say(
                        "failed",
                        node,
                        fact=problem.fact,
                        where=str(problem.where),
                        hint=problem.hint,
                    )
        self._failed |= waiting_for(self.planner.graph, plan, self._failed)
        for name in reversed(list(plan.states)):
            users = [
                user for _, user in self.planner.graph.users.get(name, ()) if user in plan.states
            ]
            if (
                users
                and plan.states[name].node.target not in plan.goals
                and self._failed.issuperset(users)
            ):
                self._failed.add(name)

    def _act(self, plan: Plan, turns: Turns, report: Report) -> set[str]:
        """Restore what is cached and start what can run.

        The nodes of which that changed what a plan says.
        """
        changed: set[str] = set()
        self._waiting.clear()
        full = not self.executor.can_start(ANY)
        for state in turns.ready(plan):
            name = state.node.name
            if (
                name in self._running
                or name in self._failed
                or any(r.state.key == state.key for r in self._running.values())
            ):
                # One of equal keys is enough; it will be the others' result.
                continue
            if state.verdict is Verdict.CACHED:
                changed |= self._restore(state, report)
            elif not full and self._inputs_ready(plan, state):
                changed |= self._start(plan, state)
                # Of thousands that wait for a place, the first tells.
                full = not self.executor.can_start(ANY)
        return changed

    def _inputs_ready(self, plan: Plan, state: State) -> bool:
        inputs = self.planner.graph.inputs[state.node.name]
        if not all(
            plan.states[s.name].verdict is Verdict.FRESH and s.name not in self._running
            for _, s, _ in inputs
        ):
            return False
        # Rows that will be asked are looked at before an adapter is trained: their data sets come
        # first.
        sets = {
            s.name for _, sources in asking(self.planner.graph, plan, state.node) for s in sources
        } - self._failed
        return all(
            plan.states[name].verdict is Verdict.FRESH and name not in self._running
            for name in sets
        )

    def _restore(self, state: State, report: Report) -> set[str]:
        assert state.manifest
        start = time.monotonic()
        node = state.node
        self._attempt(state)
        self.planner.traces.use([state.trace] if state.trace else [])
        try:
            self.planner.workspace.publish(node.target, state.manifest, self.planner.store)
        except Damaged as e:
            # The blob is in quarantine now, so the next plan finds it missing and runs the step.
            self._say("note", node, text=f"the cached result is damaged ({e}): it is built again")
            return {node.name}
        self._finish(state, state.reasons)
        if node.target not in report.restored:
            report.restored.append(node.target)
        report.touched.add(node.name)
        self._say("restored", node, seconds=time.monotonic() - start)
        return {node.name}

    def _attempt(self, state: State) -> None:
        """Raises StepError when a node does not become right however often it is made."""
        self._attempts[state.node.name] += 1
        if self._attempts[state.node.name] > MAX_ATTEMPTS:
            why = state.reasons[0].what if state.reasons else "it"
            hint = (
                "does another program write there, or does the file system not keep what is "
                "written?"
            )
            raise StepError(
                f"{state.node.target} was made {MAX_ATTEMPTS} times, and {why} is still not right",
                hint=hint,
            )

    def _start(self, plan: Plan, state: State) -> set[str]:
        """The nodes to look at again: this one, when another build has made its key meanwhile."""
        node, planner = state.node, self.planner
        assert state.key
        if not self._room.has(node) or not self.executor.can_start(node):
            return set()
        planner.store.check_writable(f"{node.target} is not in it and would have to be built")
        lock = try_lock(planner.store.lock_file(state.key))
        if lock is None:
            if node.name not in self._said_waiting:
                self._said_waiting.add(node.name)
                self._say("waiting", node)
            self._waiting.add(node.name)
            return set()
        if state.trace is None and planner.trace(node, state.key):
            lock.close()
            return {node.name}
        self._attempt(state)
        inputs = [plan.states[source.name] for _, source, _ in planner.graph.inputs[node.name]]
        planner.traces.use(s.trace for s in inputs if s.trace)
        scratch = planner.store.scratch(state.key)
        (scratch / "out").mkdir()
        try:
            action = make_action(planner, plan, state, scratch / "out")
        except Damaged as e:
            # A part of the target that lies in the store alone; the bad blob is in quarantine, so
            # the next plan runs its step.
            planner.store.discard(scratch)
            lock.close()
            self._say("note", node, text=f"a cached part is damaged ({e}): it is built again")
            return {node.name, *(source.name for _, source, _ in planner.graph.inputs[node.name])}
        self._room.take(node)
        self._running[node.name] = Running(state, scratch, lock, inputs)
        self.executor.start(action, planner.workspace.log_file(node.name), [lock.fileno()])
        # Only now, so that the step need not wait for what shows this.
        self._say(
            "started", node, reasons=[asdict(r) for r in state.reasons], seconds=state.seconds
        )
        return set()

    def _handle(self, message: Message | Outcome | None, report: Report) -> set[str]:
        """Take in what an action said. The nodes of which that changed what a plan says."""
        if isinstance(message, Message):
            node = self._running[message.node].state.node
            self._say(message.event, node, **message.data)
            return set()
        if message is None:
            return set(self._waiting)
        running = self._running.pop(message.node)
        self._room.give_back(running.state.node)
        state = running.state
        try:
            if not running.scratch.exists():
                raise StoreError(
                    f"the cache was deleted while {state.node.target} was being built",
                    hint="build again",
                )
            if message.error:
                raise message.error
            self._store(running, message)
            report.touched.add(message.node)
            self._say("finished", state.node, seconds=message.seconds)
            if state.node.target not in report.ran:
                report.ran.append(state.node.target)
        except (BuildError, OSError) as error:
            self._fail(
                state.node,
                of_disk(error, state.node.target) if isinstance(error, OSError) else error,
                report,
            )
        finally:
            self.planner.store.discard(running.scratch)
            running.lock.close()
        return {message.node}

    def _fail(self, node: Node, error: BuildError, report: Report) -> None:
        error.target = error.target or node.target
        report.errors.append(error)
        report.failed.append(node.target)
        self._failed.add(node.name)
        self._say("failed", node, fact=error.fact, where=str(error.where or ""), hint=error.hint)

    def _store(self, running: Running, outcome: Outcome) -> None:
        """Blobs, then the trace.

        Whatever goes wrong before the trace is written leaves no trace.
        """
        state, out = running.state, running.scratch / "out"
        node, planner = state.node, self.planner
        result = outcome.result
        assert result
        assert state.key
        reference, manifest, blob = result.reference, None, ""
        if reference is not None:
            # The folder that it refers to is its own: it may have been mended.
            planner.scan.forget(node)
        self._check_inputs(running)
        if reference is None:
            for name, path in node.outputs.items():
                if not (out / path).exists():
                    raise StepError(
                        f"{node.target} ended well but did not make {name or path}",
                        hint="a declared output must be made by its step",
                    )
            if result.manifest:
                manifest, blob = self._stored(node, result.manifest), result.manifest
            else:
                manifest, blob = planner.store.put_folder(out, running.scratch)
            if not manifest.files:
                raise StepError(
                    f"{node.target} ended well but made nothing",
                    hint=f"`olivebuild log {node.target}` shows its output",
                )
        outputs = {
            name: result.digests.get(name)
            or self._output_digest(node, name, out, reference, manifest)
            for name in node.outputs
        }
        known, reasons = planner.traces.get(state.key), list(state.reasons)
        if known and dict(known.outputs) != outputs:
            other = (
                numerics.differing(known.provenance.get("numerics") or {}, outcome.numerics)
                if node.computes
                else []
            )
            why = (
                f"made under other numerics: {'; '.join(other)}"
                if other
                else f"{node.target} is not deterministic"
            )
            self._say(
                "note",
                node,
                text=f"the same inputs gave another result than on the last run ({why})",
            )
            reasons.append(
                Reason(
                    "output",
                    "another result from equal inputs",
                    known.outputs.get("", known.manifest),
                    outputs.get("", blob),
                )
            )
        trace = Trace(
            key=state.key,
            kind=node.kind,
            parts=state.parts,
            outputs=outputs,
            manifest=blob,
            reference=str(reference or ""),
            size=manifest.size if manifest else 0,
            seconds=round(outcome.seconds, 3),
            peak_rss=outcome.peak_rss,
            metrics=result.metrics,
            provenance={
                **result.provenance,
                **({"numerics": outcome.numerics} if node.computes and outcome.numerics else {}),
            },
        )
        planner.traces.put(trace)
        planner.store.checkpoint(state.key).unlink(missing_ok=True)
        if manifest and node.name == node.target and state.publish_when_built:
            try:
                planner.workspace.publish(node.target, manifest, planner.store)
            except Damaged as e:
                # What the step took from the cache was not whole. It is in quarantine now, so the
                # next plan finds it missing and runs the step again.
                self._say("note", node, text=f"a cached part is damaged ({e}): it is built again")
        self._finish(state, reasons)
        planner.scan.lock.note_libraries(planner.scan.libraries(node))

    def _stored(self, node: Node, blob: str) -> Manifest:
        """The manifest that a step stored itself, complete. Raises StepError."""
        try:
            manifest = self.planner.store.manifest(blob)
            fault: Exception | None = self.planner.store.missing(manifest, computed=True)
        except (Damaged, ValueError) as e:
            fault = e
        if fault:
            raise StepError(
                f"{node.target} ended well but stored something broken: {fault}",
                hint="build again; the disk may be failing",
            )
        return manifest

    def _output_digest(
        self, node: Node, name: str, out: Path, reference: Path | None, manifest: Manifest | None
    ) -> str:
        """The content digest of an output: of a model its tensors, of a folder its files, of a file
        its bytes.
        """
        if node.kind in ("model", "merged"):
            return self.planner.scan.model_at(
                reference or out, code=trusts(self.planner.graph, node)
            )
        relative = node.outputs[name]
        if relative == "." and manifest:
            return manifest.digest
        path = out / relative
        if path.is_dir():
            files = [
                [p.relative_to(path).as_posix(), digest.of_file(p)]
                for p in digest.files_below(path)
            ]
            return digest.of_json(files)
        return digest.of_file(path)

    def _check_inputs(self, running: Running) -> None:
        """Raises InputError when what the step read is no longer what its key says."""
        node, planner = running.state.node, self.planner
        hint = "nothing was stored; build again"
        changed = planner.scan.changed(node)
        if changed:
            where = planner.scan.recipe.where(node.target)
            raise InputError(
                f"{planner.scan.shown(changed)} changed while {node.target} was being built",
                where=where,
                hint=hint,
            )
        for origin in running.inputs:
            fault: str | None = None
            if origin.trace is None or origin.trace.reference:
                changed = planner.scan.changed(origin.node)
                fault = planner.scan.shown(changed) if changed else None
            elif (
                origin.manifest
                and origin.node.name == origin.node.target
                and origin.demand is Demand.FOLDER
            ):
                differs = planner.workspace.differs(origin.node.target, origin.manifest)
                fault = differs.what if differs else None
            if fault:
                raise InputError(f"{fault} changed while {node.target} read it", hint=hint)

    def _finish(self, state: State, reasons: Iterable[Reason]) -> None:
        assert state.key
        self.planner.workspace.remember(state.node.name, Last(state.key, tuple(reasons)))

    def _remember_fresh(self, plan: Plan) -> None:
        """A target that was found fresh without being made here still has a key to compare with
        next time.
        """
        for name, state in plan.states.items():
            last = self.planner.workspace.last.get(name)
            if (
                (state.trace or (state.from_db and state.node.lies_at is None))
                and state.key
                and (last is None or last.key != state.key)
            ):
                self._finish(state, state.reasons)

    def _save(self, report: Report) -> None:
        """Whatever went wrong, what was finished is remembered; where even that can't be written,
        it is told, once.
        """
        store, workspace, graph = self.planner.store, self.planner.workspace, self.planner.graph
        nodes = frozenset(graph.every or graph.nodes)
        recipe = self.planner.scan.recipe.file
        try:
            with workspace.lock():
                before = workspaces.registered(store, recipe)
                keys = (
                    {}
                    if before
                    else {name: last.key for name, last in workspace.last.items() if name in nodes}
                )
                states = report.plan.states if report.plan else {}
                keys |= {
                    name: s.key
                    for name, s in states.items()
                    if s.key and (s.trace or (s.from_db and s.node.lies_at is None))
                }
                keys |= report.plan.keys_elsewhere if report.plan else {}
                workspaces.register(store, recipe, before, keys, nodes)
            workspace.save()
            self.planner.scan.lock.save()
        except OSError as e:
            if not report.errors:
                report.errors.append(of_disk(e))

    def _announce(self, plan: Plan) -> None:
        verdicts = {t: plan.target(t)[0] for t in plan.targets}
        run = [t for t, v in verdicts.items() if v in (Verdict.STALE, Verdict.WAITING)]
        costs = {
            name: s.seconds
            for name, s in plan.states.items()
            if s.verdict in (Verdict.STALE, Verdict.WAITING)
        }
        restore = [t for t, v in verdicts.items() if v is Verdict.CACHED]
        self.listen(Event("plan", {"run": run, "restore": restore, "seconds": costs}))
        for node, text in self.planner.dating.ignored(plan.lookups) if run else ():
            self._say("note", node, text=text)

    def _hashing(self, path: Path, done: int, total: int) -> None:
        self.listen(
            Event("hashing", {"file": self.planner.scan.shown(path), "done": done, "total": total})
        )

    def _say(self, name: str, node: Node, **data: object) -> None:
        self.listen(Event(name, {"target": node.target, "node": node.name, **data}))

    def _stop(self) -> None:
        """Whatever still runs was interrupted: stop it, and leave nothing of it."""
        try:
            for running in self._running.values():
                self._say("stopping", running.state.node)
        finally:
            self.executor.cancel()
        for running in self._running.values():
            self.planner.store.discard(running.scratch)
            running.lock.close()
        self._running.clear()
