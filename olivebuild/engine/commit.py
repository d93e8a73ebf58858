"""An action's outcome -> blobs -> trace -> build/, and what is remembered of it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from msgspec import Struct

from olivebuild.api.action import Outcome
from olivebuild.api.result import Result
from olivebuild.cache import gc_roots
from olivebuild.cache.key import Reason
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace
from olivebuild.core import hashing, numerics
from olivebuild.core.errors import Damaged, InputError, StepError, of_disk
from olivebuild.core.fs.files import files_below
from olivebuild.engine.build_report import BuildReport
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Demand, State, Verdict
from olivebuild.planner.trace_lookup import carried_on
from olivebuild.planner.workspace import LastBuild, Workspace


class RunningAction(Struct, frozen=True, kw_only=True):
    """An action under way."""

    state: State
    inputs: list[State]
    """The states of its inputs when it began."""
    scratch: Path
    lock: IO[bytes]
    """Held on its key, so that no other build makes the same."""

    @property
    def out(self) -> Path:
        """The folder that its step writes into."""
        return self.scratch / "out"

    def close(self, store: Store) -> None:
        """Delete what it wrote and release its key."""
        store.discard(self.scratch)
        self.lock.close()


class StoredResult(Struct, frozen=True, kw_only=True):
    """A result as the store has it: a manifest, or a folder elsewhere that is referred to."""

    manifest: Manifest | None = None
    blob: str = ""
    """The manifest's."""
    reference: Path | None = None


class Commit:
    """Takes in the result of an action that ended well.

    Whatever fails before the trace is written leaves no trace. `note` is called with what is to be
    told of the node. `is_put_off` tells of a result of some bytes whether it is put into build/
    later.
    """

    def __init__(
        self,
        planner: Planner,
        action: RunningAction,
        outcome: Outcome,
        note: Callable[[str], None],
        is_put_off: Callable[[int], bool] = lambda _: False,
    ) -> None:
        assert outcome.result
        assert action.state.key
        self._planner = planner
        self._action = action
        self._outcome = outcome
        self._note = note
        self._is_put_off = is_put_off
        self._state = action.state
        self._node = action.state.node
        self._key: str = action.state.key
        self._result: Result = outcome.result

    def run(self) -> Trace:
        """Store the result, and return its trace.

        Raises BuildError and OSError.
        """
        if self._result.reference is not None:
            # The folder that it refers to is its own: it may have been mended.
            self._planner.scan.forget(self._node)
        self._check_inputs_unchanged()
        stored = self._store_outputs()
        outputs = self._output_digests(stored)
        reasons = [*self._state.reasons, *self._differences(outputs, stored.blob)]
        trace = self._trace(stored, outputs)
        self._planner.traces.put(trace)
        self._planner.store.checkpoint(self._key).unlink(missing_ok=True)
        self._publish(stored)
        remember(self._planner.workspace, self._state, reasons)
        lock = self._planner.scan.lock
        lock.note_libraries(self._planner.scan.libraries(self._node))
        digests = self._result.provenance.get("sha256")
        if self._node.source and isinstance(digests, dict):
            lock.note_digests(self._node.source.text, digests)
        return trace

    def _check_inputs_unchanged(self) -> None:
        """Raises InputError when what the step read is no longer what its key says."""
        scan, target = self._planner.scan, self._node.target
        hint = "nothing was stored; build again"
        if changed := scan.changed(self._node):
            raise InputError(
                f"{scan.shown(changed)} changed while {target} was being built",
                where=scan.recipe.where(target),
                hint=hint,
            )
        for source in self._action.inputs:
            if fault := self._change_of(source):
                raise InputError(f"{fault} changed while {target} read it", hint=hint)

    def _change_of(self, source: State) -> str | None:
        """Return the file of an input that is not as it was when the action began.

        What was read from the store alone can't have changed.
        """
        scan, node = self._planner.scan, source.node
        if source.trace is None or source.trace.reference:
            changed = scan.changed(node)
            return scan.shown(changed) if changed else None
        if source.manifest is None or node.name != node.target:
            return None
        if source.demand is not Demand.FOLDER or source.verdict is Verdict.CACHED:
            return None
        difference = self._planner.workspace.differs(node.target, source.manifest)
        return difference.what if difference else None

    def _store_outputs(self) -> StoredResult:
        """Raises StepError for an output that is missing or can't be stored."""
        result, target = self._result, self._node.target
        if result.reference is not None:
            return StoredResult(reference=result.reference)
        for name, path in self._node.outputs.items():
            if not (self._action.out / path).exists():
                raise StepError(
                    f"{target} ended well but did not make {name or path}",
                    hint="a declared output must be made by its step",
                )
        if result.manifest:
            stored = StoredResult(
                manifest=self._complete_manifest(result.manifest), blob=result.manifest
            )
        else:
            manifest, blob = self._planner.store.put_folder(self._action.out, self._action.scratch)
            stored = StoredResult(manifest=manifest, blob=blob)
        if not (stored.manifest and stored.manifest.files):
            raise StepError(
                f"{target} ended well but made nothing",
                hint=f"`olivebuild log {target}` shows its output",
            )
        return stored

    def _complete_manifest(self, blob: str) -> Manifest:
        """Return the manifest that a step stored itself.

        Raises StepError when it is damaged, or a blob of it is missing.
        """
        try:
            manifest = self._planner.store.manifest(blob)
            fault: Exception | None = self._planner.store.missing(manifest, computed=True)
        except (Damaged, ValueError) as e:
            fault = e
        if fault:
            raise StepError(
                f"{self._node.target} ended well but stored something broken: {fault}",
                hint="build again; the disk may be failing",
            )
        return manifest

    def _output_digests(self, stored: StoredResult) -> dict[str, str]:
        """Return output name -> content digest."""
        return {
            name: self._result.digests.get(name) or self._output_digest(path, stored)
            for name, path in self._node.outputs.items()
        }

    def _output_digest(self, relative: str, stored: StoredResult) -> str:
        """Return the content digest of an output.

        Of a model its tensors, of a folder its files, of a file its bytes.
        """
        out = self._action.out
        if self._node.kind in ("model", "merged"):
            code = self._planner.graph.trusts_remote_code(self._node)
            return self._planner.scan.model_at(stored.reference or out, code=code)
        if relative == "." and stored.manifest:
            return stored.manifest.digest
        path = out / relative
        if not path.is_dir():
            return hashing.of_file(path)
        files = [[p.relative_to(path).as_posix(), hashing.of_file(p)] for p in files_below(path)]
        return hashing.of_json(files)

    def _differences(self, outputs: Mapping[str, str], blob: str) -> list[Reason]:
        """Tell, and return, that equal inputs gave another result than before, if they did."""
        # Of what was too old nobody expects the same.
        before = self._planner.trace(self._node, self._key)
        if before is None or dict(before.outputs) == outputs:
            return []
        settings: list[str] = []
        if self._node.computes:
            settings = numerics.differing(
                before.provenance.get("numerics") or {}, self._outcome.numerics
            )
        cause = (
            f"made under other numerics: {'; '.join(settings)}"
            if settings
            else f"{self._node.target} is not deterministic"
        )
        self._note(f"the same inputs gave another result than on the last run ({cause})")
        old, new = before.outputs.get("", before.manifest), outputs.get("", blob)
        return [Reason("output", "another result from equal inputs", old, new)]

    def _trace(self, stored: StoredResult, outputs: dict[str, str]) -> Trace:
        provenance = dict(self._result.provenance)
        if self._node.computes and self._outcome.numerics:
            provenance["numerics"] = self._outcome.numerics
        before = self._planner.traces.get(self._key)
        if before:
            provenance = carried_on(before.provenance, provenance, time.time())
        return Trace(
            key=self._key,
            kind=self._node.kind,
            parts=self._state.parts,
            outputs=outputs,
            manifest=stored.blob,
            reference=str(stored.reference or ""),
            size=stored.manifest.size if stored.manifest else 0,
            seconds=round(self._outcome.seconds, 3),
            peak_rss=self._outcome.peak_rss,
            metrics=self._result.metrics,
            provenance=provenance,
        )

    def _publish(self, stored: StoredResult) -> None:
        """Put the result into build/ where it is wanted there."""
        node = self._node
        is_wanted = node.name == node.target and self._state.publish_when_built
        if stored.manifest is None or not is_wanted or self._is_put_off(stored.manifest.size):
            return
        try:
            self._planner.workspace.publish(node.target, stored.manifest, self._planner.store)
        except Damaged as e:
            # What the step took from the cache was not whole. It is in quarantine now, so the
            # next plan finds it missing and runs the step again.
            self._note(f"a cached part is damaged ({e}): it is built again")


def remember(workspace: Workspace, state: State, reasons: Iterable[Reason]) -> None:
    """Make a node's key that of its last result here, and keep why it was made."""
    assert state.key
    workspace.remember(state.node.name, LastBuild(state.key, tuple(reasons)))


def remember_fresh(workspace: Workspace, plan: Plan) -> None:
    """Remember what was fresh without being made here, to compare with next time."""
    for name, state in plan.states.items():
        last = workspace.last.get(name)
        is_known = last is not None and last.key == state.key
        if state.has_result and state.key and not is_known:
            remember(workspace, state, state.reasons)


def save(planner: Planner, plan: Plan | None) -> None:
    """Write what is remembered.

    Which keys this recipe uses, the last results and digests of this workspace, and
    olivebuild.lock.

    `plan`: None where the build failed before there was one. Raises OSError.
    """
    store, workspace, graph = planner.store, planner.workspace, planner.graph
    nodes = frozenset(graph.every or graph.nodes)
    recipe = planner.scan.recipe.file
    with workspace.lock():
        before = gc_roots.registered(store, recipe)
        keys: dict[str, str] = {}
        if not before:
            keys |= {name: last.key for name, last in workspace.last.items() if name in nodes}
        if plan:
            keys |= {n: s.key for n, s in plan.states.items() if s.key and s.has_result}
            keys |= plan.keys_elsewhere
        gc_roots.register(store, recipe, before, keys, nodes)
    workspace.save()
    planner.scan.lock.save()


def save_all(planner: Planner, report: BuildReport) -> None:
    """Write what is remembered of a build, whatever went wrong.

    Where even that can't be written, the report tells it, once.
    """
    try:
        save(planner, report.plan)
    except OSError as e:
        if not report.errors:
            report.errors.append(of_disk(e))
