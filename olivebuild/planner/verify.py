"""Verification: read all files whose digests are remembered, compare, and repair. Builds nothing.

A disk that loses a bit changes no time stamp, so a build can't see it. Checked are the blobs and
traces of the cache, and the tensors that models lend to it. With a recipe, the folders in build/
and the inputs with remembered digests are checked, too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from olivebuild import snapshot
from olivebuild.cache import tensor_locations
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.memo import Derived
from olivebuild.cache.store import Store, blob_digest
from olivebuild.cache.traces import Traces
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged
from olivebuild.core.hashing import Compute, OnBytes, StatMemo
from olivebuild.formats import safetensors
from olivebuild.planner import node_db
from olivebuild.planner.project import Project


class FaultKind(Enum):
    BLOB = "blob"
    TRACE = "trace"
    PLACE = "place"
    """A file that lists the tensors that a model's folder lends to the cache."""
    OUTPUT = "output"
    INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A damaged file: `name` as messages show it; `path` is the file, or the folder in build/."""

    kind: FaultKind
    name: str
    why: str
    path: Path


@dataclass(frozen=True)
class Check:
    """A file or folder to read, of `size` bytes; `run` returns the fault that it has, if any."""

    kind: FaultKind
    size: int
    run: Callable[[OnBytes], Fault | None]


def checks(store: Store, project: Project | None) -> list[Check]:
    """Return all checks, the largest first, so that threads end together."""
    all_checks = [*_of_cache(store), *(_of_project(project) if project else ())]
    return sorted(all_checks, key=lambda check: -check.size)


def run(checks: Sequence[Check], listen: Callable[[int, int], None]) -> list[Fault]:
    """Run checks in several threads, and return the faults, sorted by kind and name.

    `listen(done, total)` is called with the bytes read and the bytes to read.
    """
    total = sum(check.size for check in checks)
    meter = hashing.ProgressMeter(Path(), total, lambda _path, done, total: listen(done, total))
    results = hashing.in_threads(lambda check: check.run(meter), zip(checks, strict=True))
    listen(total, total)
    faults = [fault for fault in results if fault]
    return sorted(faults, key=lambda fault: (fault.kind.value, fault.name))


def _of_cache(store: Store) -> Iterator[Check]:
    for path in store.blobs():
        yield Check(FaultKind.BLOB, path.stat().st_size, partial(_check_blob, path))
    traces = Traces(store)
    for key in traces.keys():  # noqa: SIM118
        yield Check(FaultKind.TRACE, 0, partial(_check_trace, store, traces, key))
    for file in sorted((store.root / "places").glob("*.json")):
        size = tensor_locations.size_of(file)
        yield Check(FaultKind.PLACE, size, partial(_check_locations, file))


def _of_project(project: Project) -> Iterator[Check]:
    workspace, store = project.workspace, project.planner.store
    for target, manifest in outputs(project):
        check = partial(_check_output, project, target, manifest)
        yield Check(FaultKind.OUTPUT, manifest.size, check)
    digest_functions = {"bytes": hashing.of_file, "tensors": safetensors.sum_of_tensors}
    for digest_kind, path, digest in workspace.memo.cached_digests():
        if digest_kind not in digest_functions:
            continue
        if workspace.build in path.parents or store.root in path.parents:
            # Checked as outputs and blobs.
            continue
        fault = Fault(
            kind=FaultKind.INPUT,
            name=project.planner.scan.shown(path),
            why="is not what was read before, though its times say so",
            path=path,
        )
        check = partial(_check_input, fault, digest, digest_functions[digest_kind])
        yield Check(FaultKind.INPUT, path.stat().st_size, check)


def outputs(project: Project) -> Iterator[tuple[str, Manifest]]:
    """Yield the targets that have a folder in build/, with the manifests of their last traces."""
    workspace, planner = project.workspace, project.planner
    for node in project.graph.nodes.values():
        last = workspace.last.get(node.name)
        trace = planner.traces.get(last.key) if last and node.name == node.target else None
        if trace and trace.manifest and workspace.output_folder(node.target).exists():
            try:
                yield node.target, planner.store.manifest(trace.manifest)
            except (Damaged, ValueError):
                # The blob of the manifest has a check of its own.
                continue


def _check_blob(path: Path, count: OnBytes) -> Fault | None:
    try:
        if blob_digest(path, count) == path.name:
            return None
        why = "is not what its name says"
    except FileNotFoundError:
        # Another process has set it aside meanwhile.
        return None
    except OSError as e:
        why = f"can't be read: {e.strerror}"
    return Fault(kind=FaultKind.BLOB, name=path.name, why=why, path=path)


def _check_trace(store: Store, traces: Traces, key: str, _count: OnBytes) -> Fault | None:
    path = store.path(key).with_suffix(".trace")
    if traces.is_whole(key) or traces.is_later(key) or not path.exists():
        return None
    return Fault(kind=FaultKind.TRACE, name=path.name, why="is damaged", path=path)


def _check_locations(file: Path, count: OnBytes) -> Fault | None:
    if tensor_locations.is_right(file, count):
        return None
    why = "a model's weights are not what was read before"
    return Fault(kind=FaultKind.PLACE, name=file.name, why=why, path=file)


def _check_input(fault: Fault, digest: str, compute: Compute, count: OnBytes) -> Fault | None:
    return None if compute(fault.path, count) == digest else fault


def _check_output(
    project: Project, target: str, manifest: Manifest, count: OnBytes
) -> Fault | None:
    # With an empty memo, every file is read.
    workspace = copy.copy(project.workspace)
    workspace.memo = StatMemo(project.workspace.state / "nothing.json")
    difference = workspace.differs(target, manifest)
    count(manifest.size)
    if difference is None:
        return None
    return Fault(
        kind=FaultKind.OUTPUT,
        name=difference.what,
        why=f"{difference.old} -> {difference.new}",
        path=project.workspace.output_folder(target),
    )


def repair(store: Store, project: Project | None, faults: Sequence[Fault]) -> dict[Fault, str]:
    """Repair faults, and return how. Raises StoreError where the cache can't be written."""
    store.check_writable("nothing in it can be mended")
    repairs = {
        fault: _repair_in_cache(store, fault)
        for fault in faults
        if fault.kind in (FaultKind.BLOB, FaultKind.TRACE, FaultKind.PLACE)
    }
    _drop_memo_rows(store, {fault.name for fault in repairs if fault.kind is FaultKind.BLOB})
    if project is None:
        return repairs
    for fault in faults:
        if fault.kind in (FaultKind.OUTPUT, FaultKind.INPUT):
            project.workspace.memo.forget(fault.path)
        if fault.kind is FaultKind.OUTPUT:
            repairs[fault] = _restore(project, fault.path)
        elif fault.kind is FaultKind.INPUT:
            repairs[fault] = "the next build reads it again"
    project.workspace.save()
    _delete_answers(project)
    return repairs


def _drop_memo_rows(store: Store, lost: Set[str]) -> None:
    """Drop the rows of the memo that lead to one of the lost blobs, or to none at all."""
    memo = Derived(store)
    rows = memo.rows().items()
    memo.drop(key for key, blobs in rows if not blobs or lost & {blob for blob, _ in blobs})


def _delete_answers(project: Project) -> None:
    """Delete the answers that rest on stats: by those, a damaged file is still as it was."""
    state = project.workspace.folder / ".olivebuild"
    patterns = (f"{snapshot.PREFIX}*", f"**/{snapshot.SEEN}", f"**/{node_db.NODES}")
    for pattern in patterns:
        for answer in state.glob(pattern):
            answer.unlink(missing_ok=True)


def _repair_in_cache(store: Store, fault: Fault) -> str:
    if fault.kind is FaultKind.BLOB:
        store.quarantine(fault.name)
        return "moved to quarantine"
    if fault.kind is FaultKind.PLACE:
        fault.path.unlink(missing_ok=True)
        return "forgotten"
    traces, key = Traces(store), fault.path.stem
    traces.repair(key)
    return "written again" if traces.is_whole(key) else "moved to quarantine"


def _restore(project: Project, folder: Path) -> str:
    """Restore a folder of build/ from the cache where that has it whole."""
    store = project.planner.store
    for target, manifest in outputs(project):
        if project.workspace.output_folder(target) == folder and not store.missing(manifest):
            try:
                project.workspace.publish(target, manifest, store)
            except Damaged:
                break
            return "restored"
    return "the next build makes it again"
