"""The remote cache of a build: results that others have made, and ours for them.

A remote that fails stops no build: it is told once, and the build goes on without it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from olivebuild.api.event import Event, Listener
from olivebuild.api.node import Node
from olivebuild.cache.remote_records import StepPaths
from olivebuild.cache.store import Store
from olivebuild.core.errors import of_disk
from olivebuild.engine.history import History
from olivebuild.engine.remote.builds import SharedBuilds
from olivebuild.engine.remote.leases import Claim, KeyLeases
from olivebuild.engine.remote.lenders import Lenders
from olivebuild.engine.remote.paths import paths_of
from olivebuild.engine.remote.process import Transfer, TransferProcess
from olivebuild.planner.changing.changes import Changes
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State, Verdict

NAME, HISTORY, SIGNATURES = "remote", "history", "signatures"
"""What its notes are about, in the place of a target."""
WORTH_KEEPING = 1.0
"""Seconds that a result has to have cost, so that its use is noted though it was here."""


class RemoteCache:
    """The remote cache at `url`, for builds in `store`; a context."""

    def __init__(self, url: str, store: Store, listen: Listener) -> None:
        self.url = url
        self.read_only = url.startswith(("http:", "https:"))
        """Web servers are read from only."""
        self.fetched = 0
        """Bytes that were fetched."""
        self._store = store
        self._listen = listen
        self._known: set[str] = set()
        """Keys of results that it has."""
        self._asked: set[str] = set()
        self._compared: set[str] = set()
        """Keys of results of the store whose inputs were compared with what they were made from."""
        self._uploaded: dict[str, str] = {}
        """Key -> node of what was to be uploaded."""
        self._changes: Changes | None = None
        self._comparing: Changes | None = None
        self._stale: set[str] = set()
        """Nodes that would run."""
        self._unasked: dict[str, None] = {}
        """Keys of such since they were last asked for."""
        self._awaited: set[str] = set()
        """Keys of which another machine was said to have made the results."""
        self._lenders = Lenders(store)
        self._process = TransferProcess(
            url,
            str(store.root),
            lambda why: self._tell(f"the remote cache is not used: {why}"),
            self._tell_progress,
        )

        self._leases = KeyLeases(self._process, self._tell)

    @property
    def fault(self) -> str:
        """Why it is not asked any more; "" while it is."""
        return self._process.fault

    @property
    def uploads(self) -> list[Transfer]:
        """The uploads that have ended."""
        return self._process.uploads

    def __enter__(self) -> RemoteCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for uploads, and say if one failed; unless something was interrupted."""
        try:
            if kind is None:
                self._process.wait()
                self._tell_failed()
                self._tell_different()
        finally:
            self._process.end()

    def bring(self, planner: Planner, plan: Plan) -> None:
        """Bring what the plan would run, and the remote has, into the store; update the plan.

        First the traces, since they are small and keys follow from them; then the blobs of what is
        wanted, from the goals to their inputs, so that no input is fetched for a result that is.
        """
        if self._store.read_only:
            return
        self._refuse_forged(planner, plan)
        self.look(planner, plan)
        self._update(planner, plan, self._lenders.find(plan))
        while not self.fault and (lost := self._outermost(planner, plan)):
            self._known -= self._get(lost)
            self._lenders.expect(lost.values())
            self._lenders.find(plan)
            self._update(planner, plan, lost)
            # What was brought and is lost all the same is made here.
            self._known -= {
                str(plan.states[name].key)
                for name in plan.by_key.names_of(lost)
                if plan.states[name].verdict is Verdict.STALE
            }

    def look(self, planner: Planner, plan: Plan) -> set[str]:
        """Bring the traces alone, and update the plan; return the keys of results that it has."""
        while not self.fault and (wanted := self._wanted(plan)):
            hits = self._look(planner, plan, wanted)
            self._update(planner, plan, hits)
            if not hits:
                break
        return self._known

    def fetch(self, planner: Planner, plan: Plan, names: Iterable[str]) -> None:
        """Bring the blobs of some nodes of which it has results, and update the plan."""
        states = {str(plan.states[n].key): plan.states[n] for n in names}
        states = {key: state for key, state in states.items() if key in self._known}
        if states and not self.fault:
            self._get(states)
            self._update(planner, plan, states)

    def waits(self, key: str) -> bool:
        """Return whether another machine makes a key's result, as far as is known."""
        return not self.fault and self._leases.waits(key)

    def lease(self, keys: Iterable[str]) -> set[str]:
        """Return those keys whose results this build may make; see KeyLeases.take.

        Where another machine has made one, the next `bring` brings it. What is still not right
        then is made here.
        """
        if self.read_only or self.fault:
            return set(keys)
        leased = set()
        for key, claim in self._leases.take(keys).items():
            if claim is Claim.MADE and key not in self._awaited:
                self._awaited.add(key)
                self._asked.discard(key)
                # Nothing of the plan has changed by that: it would not be asked for again.
                self._unasked[key] = None
            elif claim is not Claim.ELSEWHERE:
                leased.add(key)
        return leased

    def release(self, key: str) -> None:
        """Let others make a key's result, of which nothing has come here."""
        self._leases.release(key)

    def upload(self, planner: Planner, plan: Plan, names: Collection[str]) -> None:
        """Begin to upload the results of nodes; they have arrived when the context ends."""
        if not self.read_only:
            paths = self._paths(planner, plan, (plan.states[name] for name in names))
            for name in names:
                key = str(plan.states[name].key)
                self._uploaded[key] = name
                self._leases.hand_over(key)
            self._process.upload(paths, paths)

    def use(self, plan: Plan) -> None:
        """Note that results are in use, so that no sweep takes them; of those that cost something.

        Only where the remote was asked for something: a build that needs nothing starts no process.
        """
        traces = [state.trace for state in plan.states.values() if state.trace]
        keys = [trace.key for trace in traces if trace.seconds >= WORTH_KEEPING]
        self._process.tell("use", [*keys, *plan.keys_elsewhere.values()])

    def bring_builds(self, history: History) -> int:
        """Bring the builds of other machines into a history; return how many.

        None from a web server, which lists nothing.
        """
        if self.fault or self.read_only or not history.name:
            return 0
        try:
            count, faults = SharedBuilds(self._process, history).bring()
        except OSError as e:
            count, faults = 0, [of_disk(e, "the history").fact]
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            text = f"a build of another machine is not taken: {faults[0]}{more}"
            self._listen(Event("note", {"target": HISTORY, "node": HISTORY, "text": text}))
        return count

    def share_builds(self, history: History) -> None:
        """Bring the builds of this machine to the others."""
        if self.fault or self.read_only or not history.name:
            return
        try:
            why = SharedBuilds(self._process, history).share()
        except OSError as e:
            why = of_disk(e, "the history").fact
        if why:
            text = f"it was not shared: {why}"
            self._listen(Event("note", {"target": HISTORY, "node": HISTORY, "text": text}))

    def settle(self) -> None:
        """Wait until nothing is uploaded, so that nothing is beside what is timed."""
        self._process.wait()

    def has(self, keys: Iterable[str]) -> set[str]:
        """Return those keys of which the remote has results."""
        return {answer.key for answer in self._process.ask("has", keys) if answer.hit}

    def _refuse_forged(self, planner: Planner, plan: Plan) -> None:
        """Refuse results of the store that were made from other inputs of the same digests.

        It is known of those of which sums were kept (ml/transfer/signed/sums.py).
        """
        if self._comparing is None or self._comparing.plan is not plan:
            self._comparing = Changes(plan)
        states = {
            str(state.key): state
            for state in map(plan.states.__getitem__, self._comparing.take())
            if state.trace and state.parts and state.key not in self._compared
        }
        self._compared.update(states)
        kept = [key for key in states if (self._store.root / "sums" / f"{key}.json").exists()]
        if not kept:
            return
        paths = self._paths(planner, plan, (states[key] for key in kept))
        forged = set()
        for answer in self._process.ask("compare", kept, paths):
            state = states[answer.key]
            if answer.error and state.trace:
                self._refuse(state.node, answer.error, "the cache's result")
                planner.refuse(answer.key, state.trace)
                forged.add(answer.key)
        self._update(planner, plan, forged)

    def _follow(self, plan: Plan) -> None:
        """Note which nodes would run now."""
        if self._changes is None or self._changes.plan is not plan:
            self._changes, self._stale = Changes(plan), set()
        for name in self._changes.take():
            state = plan.states[name]
            if state.key and state.verdict is Verdict.STALE and not state.node.referenced_folder:
                self._stale.add(name)
                self._unasked[state.key] = None
            else:
                self._stale.discard(name)

    def _wanted(self, plan: Plan) -> list[str]:
        """Return the keys that were not asked for yet, of what would run."""
        self._follow(plan)
        wanted = [key for key in self._unasked if key not in self._asked]
        self._unasked.clear()
        self._asked.update(wanted)
        return wanted

    def _outermost(self, planner: Planner, plan: Plan) -> dict[str, State]:
        """Return the nodes whose results the remote has, and no user of which it has, by key."""
        self._follow(plan)
        states = {name: plan.states[name] for name in (self._stale if self._known else ())}
        lost = {name: state for name, state in states.items() if state.key in self._known}
        below: set[str] = set()
        left = list(lost)
        while left:
            for _, source, _ in planner.graph.inputs[left.pop()]:
                if source.name not in below:
                    below.add(source.name)
                    left.append(source.name)
        return {str(s.key): s for name, s in lost.items() if name not in below}

    def _paths(self, planner: Planner, plan: Plan, states: Iterable[State]) -> dict[str, StepPaths]:
        """Return where the inputs and outputs of nodes lie, by key."""
        return {str(state.key): paths_of(planner, plan, state) for state in states}

    def _look(self, planner: Planner, plan: Plan, keys: Iterable[str]) -> set[str]:
        """Fetch traces; return the keys of those that there are, and say which are no use."""
        keys = set(keys)
        states = [plan.states[name] for name in plan.by_key.names_of(keys)]
        answers = self._process.ask("look", keys, self._paths(planner, plan, states))
        node_of = {state.key: state.node for state in states}
        for answer in answers:
            if answer.error:
                self._refuse(node_of[answer.key], answer.error)
        hits = {answer.key for answer in answers if answer.hit}
        self._known |= hits
        return hits

    def _get(self, states: dict[str, State]) -> set[str]:
        """Fetch results; return the keys of those that could not be fetched."""
        failed = set()
        for answer in self._process.ask("get", states):
            node = states[answer.key].node
            if answer.error:
                self._refuse(node, answer.error)
                failed.add(answer.key)
            else:
                self.fetched += answer.bytes
                data = {"target": node.target, "node": node.name, "bytes": answer.bytes}
                self._listen(Event("fetched", data))
        return failed

    def _update(self, planner: Planner, plan: Plan, keys: Iterable[str]) -> None:
        if names := plan.by_key.names_of(keys):
            planner.update(plan, names)

    def _refuse(self, node: Node, why: str, what: str = "the remote cache's result") -> None:
        text = f"{what} is not used: {why}"
        self._listen(Event("note", {"target": node.target, "node": node.name, "text": text}))

    def _tell_failed(self) -> None:
        failed = [transfer.error for transfer in self.uploads if transfer.error]
        if self.fault:
            if left := len(failed) + len(self._process.pending):
                results = "result was" if left == 1 else "results were"
                hint = "`olivebuild remote push` does that"
                self._tell(f"{left} {results} not uploaded; {hint}")
        elif failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            self._tell(f"a result was not uploaded: {failed[0]}{more}")

    def _tell_different(self) -> None:
        if any(transfer.unkept for transfer in self.uploads):
            self._leases.tell_unkept()
        for transfer in self.uploads:
            if transfer.differs:
                self._tell(
                    f"it has another result of {self._uploaded[transfer.key]} than this machine "
                    f"({transfer.differs}); that one stays there, and this one here"
                )

    def _tell(self, text: str) -> None:
        self._listen(Event("note", {"target": NAME, "node": NAME, "text": text}))

    def _tell_progress(self, message: Mapping[str, Any]) -> None:
        if text := message.get("note"):
            place = {"target": SIGNATURES, "node": SIGNATURES}
            self._listen(Event("note", {**place, "text": str(text)}))
            return
        data = {"what": message["way"], "done": message["done"], "total": message["total"]}
        self._listen(Event("transfer", data))
