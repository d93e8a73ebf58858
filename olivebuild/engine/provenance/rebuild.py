"""Targets made again from their inputs, in a cache of their own, and compared with their results.

The steps run as in a build. What the cache has computed along the way (tensors, skeletons) is not
used, and nothing of the cache, of build/ or of what the last build knew is changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from olivebuild.api.event import Listener
from olivebuild.api.executor import Executor
from olivebuild.cache.remote_records import blobs_of
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core import numerics
from olivebuild.core.errors import Damaged, StoreError
from olivebuild.engine.builder import Builder
from olivebuild.engine.scheduler import ResourcePool, Room
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.project import Project
from olivebuild.planner.scan import Scan
from olivebuild.planner.states import State, Verdict
from olivebuild.planner.workspace import STATS, Workspace


class Rebuilt(Struct, frozen=True, kw_only=True):
    """A node that was made again: its result before and now."""

    node: str
    target: str
    before: Trace
    now: Trace

    @property
    def is_same(self) -> bool:
        """Whether all outputs have the same digests."""
        return dict(self.before.outputs) == dict(self.now.outputs)

    @property
    def differences(self) -> list[str]:
        """What of the machine, that bytes depend on, was different before."""
        before = self.before.provenance.get("numerics") or {}
        return numerics.differing(before, self.now.provenance.get("numerics") or {})


def rebuild(
    project: Project,
    targets: Iterable[str],
    executor: Executor,
    listen: Listener,
    pool: ResourcePool,
    room: Room,
) -> list[Rebuilt]:
    """Make targets again, and nothing that they are made from.

    Raises StoreError where there is no result to compare with, or what a target is made from is not
    here, and the errors of steps.
    """
    goals = list(dict.fromkeys(targets))
    plan = project.planner.plan(goals)
    project.workspace.memo.save()
    nodes = _results(plan, goals)
    with _copy(project, plan, set(nodes)) as planner:
        _check_inputs(planner.plan(goals), set(nodes))
        report = Builder(planner, executor, listen, pool, room=room).run(goals)
        if report.errors:
            raise report.errors[0]
        rebuilt = []
        for name, state in nodes.items():
            assert state.trace
            now = planner.traces.read(state.trace.key)
            if now is None:
                raise StoreError(f"{name} was not made", hint="is it needed by its target?")
            rebuilt.append(
                Rebuilt(node=name, target=state.node.target, before=state.trace, now=now)
            )
        return rebuilt


def _results(plan: Plan, goals: list[str]) -> dict[str, State]:
    """Return the nodes of the goals that a step makes. Raises StoreError without a result."""
    nodes = {}
    for name, state in plan.states.items():
        if state.node.target not in goals or state.node.referenced_folder is not None:
            continue
        if state.trace is None:
            raise StoreError(
                f"{name} has no result to compare with",
                hint=f"`olivebuild {state.node.target}` builds or restores it",
            )
        nodes[name] = state
    if not nodes:
        raise StoreError(f"{goals[0]} is used where it lies: no step makes it", hint="name another")
    return nodes


@contextmanager
def _copy(project: Project, plan: Plan, without: set[str]) -> Iterator[Planner]:
    """Yield a planner whose cache has the results of a plan, but for some nodes' alone."""
    store = project.planner.store
    store.check_writable("nothing can be made again beside it")
    scratch = store.scratch("rebuild")
    try:
        copy = Store(scratch / "cache", store.mode)
        traces = Traces(copy)
        again = {plan.states[name].key for name in without}
        for state in plan.states.values():
            if state.trace and state.key not in again:
                _lend(store, copy, state.trace)
                traces.put(state.trace)
        shutil.copytree(store.root / "places", copy.root / "places", dirs_exist_ok=True)
        yield _planner(project, copy, traces, scratch)
        traces.close()
    finally:
        store.discard(scratch)


def _lend(store: Store, copy: Store, trace: Trace) -> None:
    """Put a result's blobs, as far as they are here, into another store without copying them."""
    with suppress(Damaged):
        for blob in blobs_of(store, trace):
            path = copy.path(blob)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                continue
            try:
                os.link(store.path(blob), path)
            except OSError:
                shutil.copyfile(store.path(blob), path)


def _planner(project: Project, store: Store, traces: Traces, scratch: Path) -> Planner:
    scan = project.planner.scan
    workspace = Workspace(scratch, results=scratch / "build")
    workspace.logs.mkdir(parents=True)
    # Digests of the user's files hold here, too; those of results are not to be kept.
    with suppress(FileNotFoundError):
        shutil.copyfile(project.workspace.state / STATS, workspace.state / STATS)
    return Planner(
        graph=project.graph,
        scan=Scan(scan.recipe, workspace.memo, scan.lock, workspace.state),
        store=store,
        traces=traces,
        workspace=workspace,
    )


def _check_inputs(plan: Plan, nodes: set[str]) -> None:
    """Raise StoreError if more would have to be made than `nodes`."""
    for name, state in plan.states.items():
        if name not in nodes and state.verdict in (Verdict.STALE, Verdict.BROKEN):
            raise state.fault or StoreError(
                f"{name}, of which it is made, is not here",
                hint=f"`olivebuild {state.node.target}` builds or restores it",
            )
