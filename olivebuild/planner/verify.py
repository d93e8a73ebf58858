"""Read all that is otherwise believed, compare it with its digest, and mend what can be mended.

Builds nothing.

Looks at the blobs and traces of the cache, at the tensors that models lend, and, where there is a
recipe, at what lies in build/ and at
the inputs whose digests are remembered: a disk that loses a bit changes no time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from olivebuild import snapshot
from olivebuild.cache import tensor_locations
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.memo import Derived
from olivebuild.cache.store import Store, plain
from olivebuild.cache.traces import Traces
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged
from olivebuild.core.hashing import Compute, Count, StatMemo
from olivebuild.formats import safetensors
from olivebuild.planner import node_db
from olivebuild.planner.project import Project


class Sort(Enum):
    BLOB = "blob"
    TRACE = "trace"
    PLACE = "place"
    """A file that says where a model lends its tensors."""
    OUTPUT = "output"
    INPUT = "input"


@dataclass(frozen=True)
class Fault:
    """`name` as people see it; `path` is the file, or the folder in build/."""

    sort: Sort
    name: str
    why: str
    path: Path


@dataclass(frozen=True)
class Check:
    """Something to be read: how many bytes, and how it is done.

    `fault` holds if it turns out wrong.
    """

    sort: Sort
    size: int
    look: Callable[[Count], Fault | None]


def checks(store: Store, project: Project | None) -> list[Check]:
    """All there is to look at, the largest first, so that threads end together."""
    found = [*_of_cache(store), *(_of_project(project) if project else ())]
    return sorted(found, key=lambda check: -check.size)


def run(wanted: Sequence[Check], listen: Callable[[int, int], None]) -> list[Fault]:
    """Look at all of them with several threads; `listen(done, total)` hears how many bytes were
    read.
    """
    total = sum(check.size for check in wanted)
    meter = hashing.Meter(Path(), total, lambda _path, done, total: listen(done, total))
    found = [
        fault
        for fault in hashing.in_threads(lambda check: check.look(meter), zip(wanted, strict=True))
        if fault
    ]
    listen(total, total)
    return sorted(found, key=lambda fault: (fault.sort.value, fault.name))


def _of_cache(store: Store) -> Iterator[Check]:
    for path in store.blobs():
        yield Check(Sort.BLOB, path.stat().st_size, partial(_blob, path))
    traces = Traces(store)
    for key in traces.keys():  # noqa: SIM118
        yield Check(Sort.TRACE, 0, partial(_trace, store, traces, key))
    for file in sorted((store.root / "places").glob("*.json")):
        yield Check(Sort.PLACE, tensor_locations.size_of(file), partial(_place, file))


def _of_project(project: Project) -> Iterator[Check]:
    workspace, store = project.workspace, project.planner.store
    for target, manifest in outputs(project):
        yield Check(Sort.OUTPUT, manifest.size, partial(_output, project, target, manifest))
    ways = {"bytes": hashing.of_file, "tensors": safetensors.sum_of_tensors}
    for flavour, path, known in workspace.memo.believed():
        if (
            flavour in ways
            and workspace.build not in path.parents
            and store.root not in path.parents
        ):
            fault = Fault(
                Sort.INPUT,
                project.planner.scan.shown(path),
                "is not what was read before, though its times say so",
                path,
            )
            yield Check(
                Sort.INPUT, path.stat().st_size, partial(_input, fault, known, ways[flavour])
            )


def outputs(project: Project) -> Iterator[tuple[str, Manifest]]:
    """The targets that lie in build/, and what their last traces say they hold."""
    workspace, planner = project.workspace, project.planner
    for node in project.graph.nodes.values():
        last = workspace.last.get(node.name)
        trace = planner.traces.get(last.key) if last and node.name == node.target else None
        if trace and trace.manifest and workspace.place(node.target).exists():
            try:
                yield node.target, planner.store.manifest(trace.manifest)
            except (Damaged, ValueError):
                # The blob is told of by itself.
                continue


def _blob(path: Path, count: Count) -> Fault | None:
    try:
        right = plain(path, count) == path.name
    except FileNotFoundError:
        # Another process has set it aside meanwhile.
        return None
    except OSError as e:
        return Fault(Sort.BLOB, path.name, f"can't be read: {e.strerror}", path)
    return None if right else Fault(Sort.BLOB, path.name, "is not what its name says", path)


def _trace(store: Store, traces: Traces, key: str, _count: Count) -> Fault | None:
    path = store.path(key).with_suffix(".trace")
    return (
        None
        if traces.is_whole(key) or traces.is_later(key) or not path.exists()
        else Fault(Sort.TRACE, path.name, "is damaged", path)
    )


def _place(file: Path, count: Count) -> Fault | None:
    return (
        None
        if tensor_locations.is_right(file, count)
        else Fault(Sort.PLACE, file.name, "a model's weights are not what was read before", file)
    )


def _input(fault: Fault, known: str, way: Compute, count: Count) -> Fault | None:
    return None if way(fault.path, count) == known else fault


def _output(project: Project, target: str, manifest: Manifest, count: Count) -> Fault | None:
    unaware = copy.copy(project.workspace)
    unaware.memo = StatMemo(project.workspace.state / "nothing.json")
    differs = unaware.differs(target, manifest)
    count(manifest.size)
    return (
        Fault(
            Sort.OUTPUT,
            differs.what,
            f"{differs.old} -> {differs.new}",
            project.workspace.place(target),
        )
        if differs
        else None
    )


def repair(store: Store, project: Project | None, faults: Sequence[Fault]) -> dict[Fault, str]:
    """What was done about each. Raises StoreError where the cache can't be written."""
    store.check_writable("nothing in it can be mended")
    done = {
        fault: _mend(store, fault)
        for fault in faults
        if fault.sort in (Sort.BLOB, Sort.TRACE, Sort.PLACE)
    }
    gone = {fault.name for fault in done if fault.sort is Sort.BLOB}
    derived = Derived(store)
    derived.drop(
        key
        for key, blobs in derived.rows().items()
        if not blobs or gone & {blob for blob, _ in blobs}
    )
    for fault in faults:
        if project and fault.sort in (Sort.OUTPUT, Sort.INPUT):
            project.workspace.memo.forget(fault.path)
            done[fault] = (
                _restore(project, fault.path)
                if fault.sort is Sort.OUTPUT
                else "the next build reads it again"
            )
    if project:
        project.workspace.save()
        # An answer from stats would go on believing what was just found wrong.
        state = project.workspace.folder / ".olivebuild"
        for answer in (
            *state.glob(f"{snapshot.PREFIX}*"),
            *state.glob(f"**/{snapshot.SEEN}"),
            *state.glob(f"**/{node_db.NODES}"),
        ):
            answer.unlink(missing_ok=True)
    return done


def _mend(store: Store, fault: Fault) -> str:
    if fault.sort is Sort.BLOB:
        store.quarantine(fault.name)
        return "moved to quarantine"
    if fault.sort is Sort.PLACE:
        fault.path.unlink(missing_ok=True)
        return "forgotten"
    traces = Traces(store)
    traces.mend(fault.path.stem)
    return "written again" if traces.is_whole(fault.path.stem) else "moved to quarantine"


def _restore(project: Project, place: Path) -> str:
    for target, manifest in outputs(project):
        if project.workspace.place(target) == place and not project.planner.store.missing(manifest):
            try:
                project.workspace.publish(target, manifest, project.planner.store)
            except Damaged:
                break
            return "restored"
    return "the next build makes it again"
