"""A target of build/ -> a folder or an archive with all that it takes to run it, and its papers.

    the target's files, README.md (the model card), provenance.json (in-toto, SLSA), licences of the
    base model, olivebuild-export.json (the manifest)

It appears whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from olivebuild import __version__
from olivebuild.core.errors import GateError, InputError
from olivebuild.core.fs.locks import locked
from olivebuild.engine.provenance import slsa
from olivebuild.engine.provenance.lineage import Lineage, lineage_of
from olivebuild.engine.recorder import history_of
from olivebuild.exporters import archive, delta, destination, manifest, pieces, shipments
from olivebuild.exporters.card import card
from olivebuild.exporters.layouts import table
from olivebuild.exporters.layouts.names import FOLDER
from olivebuild.exporters.layouts.origin import Origin, Written, runs_of
from olivebuild.exporters.manifest import ExportManifest
from olivebuild.exporters.push.pushing import Pusher
from olivebuild.exporters.push.records import Export, Pushed
from olivebuild.exporters.shipments import Shipment
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import Verdict
from olivebuild.ui.report.collect.report import collect

LICENCES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY")
PAPERS = ("README.md", "provenance.json", manifest.NAME)


class Exported(Struct, frozen=True, kw_only=True):
    """What was exported, and the sizes of a delta, if it is one."""

    target: str
    digest: str
    place: Path | None
    """None where it was pushed alone."""
    size: int
    files: int
    delta: delta.DeltaSize | None = None
    doubts: tuple[str, ...] = ()
    """Why its gates would not have let it out."""
    judged: bool = True
    """A gate of the recipe judges it."""
    notes: tuple[str, ...] = ()
    """What layout and push have to say."""
    pushed: Pushed | None = None


def export(
    project: Project,
    target: str,
    place: Path | None,
    *,
    force: bool = False,
    since: Path | None = None,
    layout: str = FOLDER,
    options: Mapping[str, str] | None = None,
    push: Pusher | None = None,
) -> Exported:
    """Export a target that is in build/.

    `since`: only what has changed since an earlier export, by its folder or manifest. `layout` is
    one of layouts/table.py, and `options` are its own. `push`: all of it is pushed there before it
    appears in its place; without a place it is pushed alone. Raises GateError where gates are not
    met and not `force`, StoreError and InputError.
    """
    if place:
        destination.check(project, place)
    form = table.check(layout, project.graph.targets[target].kind, target)
    plan = project.planner.plan([target, *_judges(project, target)])
    lineage = lineage_of(project, plan, target)
    doubts = tuple(doubts_of(project, plan, target))
    if doubts and not force:
        raise GateError(
            f"{target} is not to be shipped: {doubts[0]}"
            + (f" (and {len(doubts) - 1} more)" if doubts[1:] else ""),
            hint="mend it, or --force exports it with that on its card",
        )
    old = _old(since) if since else None
    pushed = None
    with _staging(project, place) as staging:
        whole = staging / "whole"
        whole.mkdir()
        origin = _origin(project, plan, lineage, options or {})
        written = form.write(origin, whole)
        contents = _add_papers(origin, written, doubts, whole)
        result, size = whole, None
        if old:
            result = staging / "delta"
            result.mkdir()
            size = delta.write(old, contents, whole, result)
        files = sum(1 for path in result.rglob("*") if path.is_file())
        if place and (suffix := archive.suffix_of(place)):
            packed = staging / f"packed{suffix}"
            archive.pack(result, packed, suffix=suffix, name=place.name[: -len(suffix)])
            result = packed
        total = sum(p.stat().st_size for p in [result, *result.rglob("*")] if p.is_file())
        if push:
            # What others see comes late, and is written down before anything else can fail.
            pushed = push.push(_to_push(contents, whole))
            if pushed.new or not _is_recorded(project, contents, pushed):
                _record(project, contents, pushed.text, doubts)
        if place:
            os.rename(result, place)
            _record(project, contents, place.name, doubts, is_delta=bool(old))
    read_only = project.planner.store.read_only
    unlisted = (
        ["the cache is read-only: `olivebuild history` will not list it"] if read_only else []
    )
    return Exported(
        target=target,
        digest=contents.digest,
        place=place,
        size=total,
        files=files,
        delta=size,
        doubts=doubts,
        judged=bool(_judges(project, target)),
        notes=(*written.notes, *(pushed.notes if pushed else ()), *unlisted),
        pushed=pushed,
    )


def _to_push(contents: ExportManifest, folder: Path) -> Export:
    return Export(
        folder=str(folder),
        target=contents.target,
        digest=contents.digest,
        version=contents.version,
    )


def _record(
    project: Project,
    contents: ExportManifest,
    where: str,
    doubts: tuple[str, ...],
    *,
    is_delta: bool = False,
) -> None:
    """Write down what was shipped to where, unless the cache, which has the history, can't be."""
    if project.planner.store.read_only:
        return
    shipments.append(
        history_of(project).file,
        Shipment(
            target=contents.target,
            digest=contents.digest,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            place=where,
            delta=is_delta,
            doubts=doubts,
        ),
    )


def _is_recorded(project: Project, contents: ExportManifest, pushed: Pushed) -> bool:
    """Return whether a push of the same model to the same place is written down."""

    def bare(text: str) -> str:
        return text.partition("@")[0]

    return any(
        one.digest == contents.digest and bare(one.place) == bare(pushed.text)
        for one in shipments.read(history_of(project).file)
    )


def doubts_of(project: Project, plan: Plan, target: str) -> Iterator[str]:
    """Yield why gates do not say that a target may be shipped: missed, undecided, not measured."""
    for name in _judges(project, target):
        verdict, _ = plan.target(name)
        metrics = project.metrics(plan, name)
        if verdict is not Verdict.FRESH or not metrics:
            yield f"{name} has not measured it as it is now"
            continue
        for judged in project.judge({name: metrics}):
            if judged.state != "met":
                word = "missed" if judged.state == "missed" else "not decided"
                yield f"{name}: {judged.gate} is {word}"


def _judges(project: Project, target: str) -> list[str]:
    """Return the benchmarks with gates that judge a target."""
    targets = project.graph.targets
    return [
        name
        for name, one in targets.items()
        if one.kind == "benchmark" and one.gated and target in _models_of(project, name)
    ]


def _models_of(project: Project, bench: str) -> Iterator[str]:
    """Yield the targets that a benchmark judges; of an adapter not the base below it."""
    for node in project.graph.nodes.values():
        if node.target == bench and node.kind == "benchmark-accuracy":
            edges = project.graph.inputs[node.name]
            roles = {edge.role: source.target for edge, source, _ in edges}
            yield roles.get("adapter") or roles["model"]


def _origin(project: Project, plan: Plan, lineage: Lineage, options: Mapping[str, str]) -> Origin:
    state = plan.states[lineage.target]
    return Origin(
        project=project,
        plan=plan,
        lineage=lineage,
        folder=state.folder or project.workspace.output_folder(lineage.target),
        runs=runs_of(project, plan, lineage.target),
        options=options,
    )


def _add_papers(
    origin: Origin, written: Written, doubts: tuple[str, ...], out: Path
) -> ExportManifest:
    """Add card, licences, provenance and manifest; return that. Raises InputError, StoreError."""
    project, plan, lineage = origin.project, origin.plan, origin.lineage
    for name in PAPERS[1:]:
        if (out / name).exists():
            fact = f"{lineage.target} has a file of its own named {name}"
            raise InputError(fact, hint="rename it in its step")
    base = _base(project, plan, lineage)
    licences = _copy_licences(base, out)
    report = collect(project, project.planner.plan(project.graph.all_goals))
    if (out / "README.md").exists():
        os.rename(out / "README.md", out / "README.base.md")
    text = card(report, lineage, base, doubts, licences, written)
    (out / "README.md").write_text(text, "utf-8")
    (out / "provenance.json").write_text(slsa.text(lineage), "utf-8")
    contents = ExportManifest(
        target=lineage.target,
        kind=lineage.kind,
        digest=lineage.digest,
        version=__version__,
        files=tuple(manifest.files_of(out, {**written.runs, **pieces.of_tensors(out)})),
    )
    (out / manifest.NAME).write_text(contents.to_text(), "utf-8")
    return contents


def _base(project: Project, plan: Plan, lineage: Lineage) -> Path | None:
    """Return the folder of the base model, where it is here."""
    below, queue = set[str](), [lineage.target]
    while queue:
        for _, source, _ in project.graph.inputs[queue.pop()]:
            if source.name not in below:
                below.add(source.name)
                queue.append(source.name)
    for name in below:
        state = plan.states.get(name)
        if state and state.node.kind == "model":
            folder = state.folder or project.workspace.output_folder(state.node.target)
            if folder.is_dir():
                return folder
    return None


def _copy_licences(base: Path | None, out: Path) -> list[str]:
    """Copy a base model's licences; return their names."""
    files = sorted(base.iterdir()) if base else []
    copied = []
    for file in files:
        if file.is_file() and file.name.upper().startswith(LICENCES):
            if not (out / file.name).exists():
                shutil.copyfile(file, out / file.name)
            copied.append(file.name)
    return copied


def _old(since: Path) -> delta.Old:
    """Return the export that a delta begins with. Raises InputError."""
    contents = manifest.read(since)
    folder = since if since.is_dir() else None
    if folder:
        delta.check_folder(contents, folder)
        # An export of an earlier olivebuild's knows other pieces.
        runs = pieces.of_tensors(folder)
        files = (replace(f, runs=runs.get(f.name, f.runs)) for f in contents.files)
        contents = replace(contents, files=tuple(files))
    text = ((since / manifest.NAME) if folder else since).read_bytes()
    return delta.Old(contents, text, folder)


@contextmanager
def _staging(project: Project, place: Path | None) -> Iterator[Path]:
    """Yield a folder beside the place, or in the cache, which is gone afterwards.

    Where neither may be written it lies in the system's folder for such.
    """
    store = project.planner.store
    if place is None and not store.read_only:
        # A sweep deletes what lies there while no build holds this.
        with locked(store.builds_lock, shared=True):
            scratch = store.scratch("push")
            try:
                yield scratch
            finally:
                store.discard(scratch)
        return
    prefix = f".{place.name}." if place else "olivebuild-push-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place and place.parent) as name:
        yield Path(name)
