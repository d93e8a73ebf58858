"""Writes the snapshot from which the next build of which nothing has changed is answered: what was printed, and all that was looked at."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TextIO

from olivebuild import digest, snapshot
from olivebuild.plan import Plan
from olivebuild.project import Project

KEPT = 8
"""Commands whose answers are kept for one recipe."""


class Tee:
    """A stream that also remembers what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.written: list[str] = []

    def write(self, text: str) -> int:
        # First the stream's own word: click tries what a stream takes.
        count = self._stream.write(text)
        self.written.append(text)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def save(project: Project, plan: Plan, started: int, out: str, err: str, code: int) -> None:
    """Remember an answer. `started`: the file system's time before the first look, so that a change in the same tick is not missed."""
    found = {path: snapshot.stat_of(path) for path in sorted(_looked_at(project, plan))}
    if not out or any(stat and max(stat[3:]) >= started for stat in found.values()):
        return
    arguments = sys.argv[1:]
    key = snapshot.command_key(arguments)
    file = Path(snapshot.file_of(arguments, key))
    try:
        digest.write_atomically(file, snapshot.to_text(key, found, out, err, code).encode())
        for old in sorted(file.parent.glob(f"{snapshot.PREFIX}*"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, ValueError):
        # A folder that can't be written has no snapshot, and each build looks at everything.
        return


def _looked_at(project: Project, plan: Plan) -> set[str]:
    """Every file and folder on which the plan, and so the answer, depends."""
    recipe, scan = project.graph.recipe, project.planner.scan
    paths: set[Path] = {recipe.folder / recipe.file.name, recipe.folder, project.lock.file}
    for path in scan.looked_at():
        # A file that is added in place of a missing one changes its folder.
        paths |= {path, path.parent}
    store = project.planner.store
    for name, state in plan.states.items():
        if state.trace:
            paths.add(store.path(state.trace.key).with_suffix(".trace"))
        if state.trace and state.trace.manifest:
            paths.add(store.path(state.trace.manifest))
        place = project.workspace.place(state.node.target)
        if name == state.node.target:
            paths |= {place, *place.rglob("*")}
        for library in state.node.libraries:
            paths |= _distribution(library)
    ours = Path(__file__).parent
    paths |= {ours, *(p for p in ours.rglob("*") if p.suffix in (".py", "") and "__pycache__" not in p.parts)}
    paths |= {Path(p) for p in sys.path if p and os.path.isdir(p)}
    return {str(path.absolute()) for path in paths}


def _distribution(name: str) -> set[Path]:
    from importlib.metadata import PackageNotFoundError, distribution

    from olivebuild.scan import VARIANTS

    found: set[Path] = set()
    for candidate in (name, *VARIANTS.get(name, ())):
        try:
            found.add(Path(str(distribution(candidate).locate_file(""))))
            path = getattr(distribution(candidate), "_path", None)
            if path:
                found |= {Path(path), Path(path) / "METADATA"}
        except PackageNotFoundError:
            continue
    return found
