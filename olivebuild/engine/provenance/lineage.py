"""What a target was made from and how, from the traces in the cache. Runs nothing.

Formats are those of slsa.py and cyclonedx.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from olivebuild.api.node import Node
from olivebuild.cache.key import Part
from olivebuild.core.errors import InputError, StoreError
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import files_below
from olivebuild.engine.recorder import history_of
from olivebuild.engine.remote.paths import paths_of
from olivebuild.formats.weight_files import model_files
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import State, Verdict


class DigestedFile(Struct, frozen=True, kw_only=True):
    """A file: its name, relative to the recipe or the target, and its SHA-256."""

    name: str
    sha256: str
    size: int


class PinnedSource(Struct, frozen=True, kw_only=True):
    """A remote source: its text in the recipe, what it is pinned to, and its files' SHA-256."""

    text: str
    pin: str
    files: Mapping[str, str] = {}


class StepRun(Struct, frozen=True, kw_only=True):
    """A step that ran, and its result."""

    node: str
    target: str
    kind: str
    key: str
    parts: tuple[Part, ...]
    inputs: Mapping[str, str]
    """Role -> the node that it comes from."""
    outputs: Mapping[str, str]
    """Output -> XXH3 digest."""
    seconds: float = 0.0
    numerics: Mapping[str, Any] = {}
    finished: str = ""
    """When the build ended that ran it, in UTC; empty where that is not known."""

    def values(self, cause: str) -> dict[str, str]:
        """Return label -> value of the parts of a cause."""
        return {part.label: part.value for part in self.parts if part.cause == cause}


class Lineage(Struct, frozen=True, kw_only=True):
    """A target: its files, the steps that led to it, in order, and what they began with."""

    target: str
    kind: str
    digest: str
    """Of its content; that of a model which is used where it lies, too."""
    recipe: DigestedFile
    lock: DigestedFile | None
    files: tuple[DigestedFile, ...]
    steps: tuple[StepRun, ...]
    sources: Mapping[str, PinnedSource]
    """By node."""
    read: Mapping[str, tuple[DigestedFile, ...]]
    """Node -> files that it reads, or that the model used where it lies consists of."""

    @property
    def last(self) -> StepRun:
        """The step that made the target; there are none of a model that is used where it lies."""
        return self.steps[-1]


def lineage_of(project: Project, plan: Plan, target: str) -> Lineage:
    """Return the lineage of a target that is in build/.

    Raises StoreError where it is not, or a step of it has no result, and InputError.
    """
    state = plan.states[target]
    names = _needed(project, target)
    for name in names:
        _check(plan.states[name], name == target)
    folder = _folder(project, state)
    outputs = state.trace.outputs if state.trace else state.outputs or {}
    finished = _finished(project)
    scan = project.planner.scan
    lock = project.lock.file
    return Lineage(
        target=target,
        kind=state.node.kind,
        digest=next(iter(outputs.values()), ""),
        recipe=_file(scan.recipe.file, scan.recipe.file.name),
        lock=_file(lock, lock.name) if lock.exists() else None,
        files=tuple(_files_of(state.node, folder)),
        steps=tuple(_run(project, plan.states[n], finished) for n in names if _ran(plan, n)),
        sources={
            name: PinnedSource(
                text=source.text,
                pin=scan.pin(plan.states[name].node) or "",
                files=project.lock.digests.get(source.text, {}),
            )
            for name in names
            if (source := plan.states[name].node.source) and source.remote
        },
        read={name: files for name in names if (files := tuple(_read(project, plan, name)))},
    )


def _needed(project: Project, target: str) -> list[str]:
    """Return a target's node and all that it comes from, inputs first."""
    order: dict[str, None] = {}

    def add(name: str) -> None:
        for _, source, _ in project.graph.inputs[name]:
            if source.name not in order:
                add(source.name)
        order[name] = None

    add(target)
    return list(order)


def _ran(plan: Plan, name: str) -> bool:
    return plan.states[name].trace is not None


def _check(state: State, is_goal: bool) -> None:
    """Raise StoreError for a node without a result; a goal has to be in build/, too."""
    node = state.node
    if state.fault:
        raise state.fault
    has_result = state.trace is not None or node.referenced_folder is not None
    in_place = state.verdict is Verdict.FRESH or not is_goal
    if not has_result or not in_place:
        what = "has no result" if not has_result else "is not in build/"
        hint = f"`olivebuild {node.target}` builds it"
        raise StoreError(f"{node.target} {what}", hint=hint)


def _folder(project: Project, state: State) -> Path:
    if state.folder is not None:
        return state.folder
    return project.workspace.output_folder(state.node.target)


def _files_of(node: Node, folder: Path) -> Iterator[DigestedFile]:
    """Yield the files of a result; of a model that lies elsewhere what is read of it."""
    if node.kind == "model":
        weights, others = model_files(folder, code=node.trusts_remote_code)
        paths = sorted([*weights, *others])
    else:
        paths = list(files_below(folder))
    for path in paths:
        yield _file(path, path.relative_to(folder).as_posix())


def _read(project: Project, plan: Plan, name: str) -> Iterator[DigestedFile]:
    """Yield the files of the user's that a node reads."""
    state, scan = plan.states[name], project.planner.scan
    if state.node.referenced_folder is not None:
        folder = scan.referenced(state.node)
        shown = _public(str(state.node.referenced_folder))
        for file in _files_of(state.node, folder):
            yield replace(file, name=f"{shown}/{file.name}")
        return
    for place in paths_of(project.planner, plan, state).inputs:
        if place.path and not place.key:
            path = Path(place.path)
            for one in files_below(path) if path.is_dir() else [path]:
                yield _file(one, _public(scan.shown(one)))


def _public(path: str) -> str:
    """Return a path as others may see it: no folders of this machine."""
    pure = PurePath(path)
    return pure.name if pure.is_absolute() or ".." in pure.parts else pure.as_posix()


def _run(project: Project, state: State, finished: Mapping[str, str]) -> StepRun:
    assert state.trace
    assert state.key
    inputs = project.graph.inputs[state.node.name]
    return StepRun(
        node=state.node.name,
        target=state.node.target,
        kind=state.node.kind,
        key=state.key,
        parts=state.trace.parts,
        inputs={edge.role: source.name for edge, source, _ in inputs},
        outputs=dict(state.trace.outputs),
        seconds=state.trace.seconds,
        numerics=state.trace.provenance.get("numerics") or {},
        finished=finished.get(state.key, ""),
    )


def _finished(project: Project) -> dict[str, str]:
    """Return key -> when the build ended that ran its step, as the history has it."""
    return {
        run.key: entry.time
        for entry in history_of(project).read()
        for run in entry.made
        if not run.restored
    }


def _file(path: Path, name: str) -> DigestedFile:
    """Raises InputError."""
    try:
        with opening.open_file(path) as f:
            sha256 = hashlib.file_digest(f, "sha256").hexdigest()
            return DigestedFile(name=name, sha256=sha256, size=f.tell())
    except OSError as e:
        fact = f"{name} can't be read: {e.strerror or e}"
        raise InputError(fact, hint="was it deleted meanwhile?") from None
