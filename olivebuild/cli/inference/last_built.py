"""Results that were built last, of targets that are not up to date, and what a build would do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from olivebuild.cache.key import Reason
from olivebuild.cache.traces import Trace
from olivebuild.core.errors import BuildError, Damaged
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State, Verdict


class Pending(Struct, frozen=True, kw_only=True):
    """What a plan would run: the first target that is stale, why, and what all cost last time.

    `seconds`: None where no step is known to have run; `is_whole`: all steps are.
    """

    target: str
    reasons: tuple[Reason, ...]
    seconds: float | None
    is_whole: bool


def pending(plan: Plan) -> Pending | None:
    """Return what a plan would run; None where it would run nothing."""
    states = [s for s in plan.states.values() if _is_to_run(s)]
    if not states:
        return None
    first = next((s for s in states if s.verdict is not Verdict.WAITING), states[0])
    costs = [s.seconds for s in states if s.seconds is not None]
    return Pending(
        target=first.node.target,
        reasons=tuple(first.reasons),
        seconds=sum(costs) if costs else None,
        is_whole=len(costs) == len(states),
    )


def _is_to_run(state: State) -> bool:
    return state.verdict in (Verdict.STALE, Verdict.WAITING, Verdict.BROKEN)


def has_last(planner: Planner, state: State) -> bool:
    """Return whether a node has a result of now, or one that was built here last."""
    return _lies_elsewhere(state) or _last_trace(planner, state) is not None


def _lies_elsewhere(state: State) -> bool:
    """Return whether a node's result is a folder that the recipe names, which is used as it is."""
    return state.node.referenced_folder is not None and state.folder is not None


def _last_trace(planner: Planner, state: State) -> Trace | None:
    if state.trace is not None:
        return state.trace
    last = planner.workspace.last.get(state.node.name)
    return planner.traces.get(last.key) if last else None


@contextmanager
def last_folder(planner: Planner, state: State) -> Iterator[tuple[Path, str]]:
    """Context with the folder of a node's last result, and its digest.

    What is not in build/ any more is restored from the cache into a folder that goes with the
    context. Raises BuildError where there is no such result, or it is not whole.
    """
    name = state.node.target
    if _lies_elsewhere(state):
        yield Path(str(state.folder)), (state.outputs or {}).get("", "")
        return
    trace = _last_trace(planner, state)
    if trace is None:
        raise _missing(name, "it was never built here")
    digest = trace.outputs.get("", "")
    if trace.reference:
        yield Path(trace.reference), digest
        return
    place = planner.workspace.output_folder(name)
    try:
        manifest = planner.store.manifest(trace.manifest)
        if planner.workspace.differs(name, manifest) is None:
            yield place, digest
            return
        scratch = planner.store.scratch("asis")
        try:
            folder = scratch / "out"
            folder.mkdir()
            planner.store.restore(manifest, folder)
            yield folder, digest
        finally:
            planner.store.discard(scratch)
    except Damaged as e:
        raise _missing(name, f"the cache has not all of it any more: {e}") from None


def _missing(target: str, why: str) -> BuildError:
    return BuildError(
        f"there is no last result of {target} to use: {why}", hint="--build builds it first"
    )
