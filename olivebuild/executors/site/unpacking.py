"""Unpacking on a site: a portable action -> an action with paths of that machine."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

from olivebuild.api.action import Action, ActionInput, Asked
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.store import Store
from olivebuild.core.errors import Damaged
from olivebuild.core.fs import trees
from olivebuild.core.fs.files import files_below
from olivebuild.core.fs.locks import locked
from olivebuild.core.hashing import canonical_json
from olivebuild.executors.site.portable import PortableAction

DAY = 86400
UNUSED = 14 * DAY
"""Seconds after which an input that no job has used is deleted."""


def unpack(portable: PortableAction, root: Path, store: Store, work: Path) -> Action:
    """Return an action whose inputs lie in the site's folder `root`. Raises Damaged and OSError.

    `work`: the scratch folder of this process.
    """
    out = work / "out"
    trees.delete(work.parent, work)
    out.mkdir(parents=True, mode=0o700)
    recipe = work / "recipe"
    recipe.mkdir()
    store.restore(Manifest(portable.folder), recipe)
    asked = work / "asked"
    asked.mkdir()
    store.restore(Manifest(tuple(each.file for each in portable.asked)), asked)
    return Action(
        node=portable.node,
        target=portable.target,
        kind=portable.kind,
        key=portable.key,
        fields=portable.fields,
        inputs={role: _input(portable, role, root, store) for role in portable.inputs},
        files={
            label: [str(recipe / name) for name in names] for label, names in portable.files.items()
        },
        recipe_folder=str(recipe),
        out=str(out),
        store=str(store.root),
        pin=portable.pin,
        sha256=portable.sha256,
        places=portable.places,
        gpus=portable.gpus,
        threads=portable.threads,
        runner=portable.runner,
        publish=portable.publish,
        consumers=portable.consumers,
        template_date=portable.template_date,
        asked=[
            Asked(each.target, str(asked / each.file.name), each.new_tokens, each.whole)
            for each in portable.asked
        ],
    )


def _input(portable: PortableAction, role: str, root: Path, store: Store) -> ActionInput:
    source = portable.inputs[role]
    folder = path = ""
    if source.manifest:
        place = put_in_place(root, store, source.manifest)
        folder, path = str(place), str(place / source.path)
    return ActionInput(
        folder=folder,
        path=path,
        kind=source.kind,
        target=source.target,
        source=source.source,
        trust_remote_code=source.trust_remote_code,
        digest=source.digest,
        manifest=source.stored,
    )


def put_in_place(root: Path, store: Store, manifest: str) -> Path:
    """Return a folder with the content of a manifest, shared by all jobs. Raises Damaged, OSError.

    What another job has put there is used as long as its files are as they were.
    """
    place = root / "inputs" / manifest
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(root / "locks" / f"input-{manifest}.lock"):
        if _is_whole(place):
            os.utime(place)
            return place
        trees.delete(place.parent, place)
        part = place.with_name(f".{manifest}-{uuid.uuid4().hex[:8]}")
        try:
            part.mkdir(mode=0o700)
            try:
                content = store.manifest(manifest)
            except ValueError:
                raise Damaged(manifest, "is damaged") from None
            store.restore(content, part)
            _stats_file(place).write_text(_stats(part))
            os.rename(part, place)
        finally:
            trees.delete(part.parent, part)
    return place


def sweep(root: Path) -> None:
    """Delete inputs that no job has used for long, and jobs that nobody came back for."""
    for parent in ("inputs", "jobs"):
        with contextlib.suppress(OSError):
            for path in (root / parent).iterdir():
                # Another may do the same.
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > UNUSED:
                        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        trees.delete(path.parent, path)
    else:
        path.unlink()


def _stats_file(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _is_whole(place: Path) -> bool:
    try:
        return _stats_file(place).read_text() == _stats(place)
    except OSError:
        return False


def _stats(folder: Path) -> str:
    """Return what changes when a file of a folder does, and does not when the folder is renamed."""
    lines = []
    for path in files_below(folder):
        stat = path.lstat()
        lines.append(
            [path.relative_to(folder).as_posix(), stat.st_ino, stat.st_size, stat.st_mtime_ns]
        )
    return canonical_json(lines)
