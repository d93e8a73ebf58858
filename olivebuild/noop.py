"""Writes the snapshot from which the next build of which nothing has changed is answered: what was
printed, and all that was looked at.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TextIO

from olivebuild import digest, numerics, snapshot
from olivebuild.memory import Pages, everywhere, packed, results
from olivebuild.plan import Plan
from olivebuild.project import Project
from olivebuild.snapshot import Stat

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


def save(
    project: Project, plan: Plan, pages: Pages | None, started: int, out: str, err: str, code: int
) -> None:
    """Remember an answer.

    `started`: the file system's time before the first look, so that a change in the same tick is
    not missed.

    What `pages` says of the nodes, the answer need not say again.
    """
    found = _looked_at(project, plan, pages)
    if not out or not all(stat is None or digest.is_past(stat, started) for stat in found.values()):
        return
    arguments = sys.argv[1:]
    key = snapshot.command_key(arguments)
    file, seen = (
        Path(snapshot.file_of(arguments, key)),
        str((project.workspace.state / snapshot.SEEN).absolute()),
    )
    try:
        digest.write_atomically(
            file,
            snapshot.to_bytes(
                key,
                (seen, pages.name) if pages else ("", ""),
                *packed(found),
                out,
                err,
                code,
                _variables(plan),
            ),
        )
        for old in sorted(file.parent.glob(f"{snapshot.PREFIX}*"), key=lambda p: p.stat().st_mtime)[
            :-KEPT
        ]:
            old.unlink(missing_ok=True)
    except OSError:
        # A folder that can't be written has no snapshot, and each build looks at everything.
        return


def _variables(plan: Plan) -> list[str]:
    """What of the environment counts for a node: these are looked up each time, so that the plan
    has them.
    """
    found = set[str]()
    for state in plan.states.values():
        found.update(state.node.keyed)
        if state.node.strict:
            found.update(numerics.SETTINGS, numerics.THREADS)
    return sorted(found)


def _looked_at(project: Project, plan: Plan, pages: Pages | None) -> dict[str, Stat | None]:
    """Every file and folder on which the plan, and so the answer, depends, but for what `pages`
    has.
    """
    paths = {project.graph.recipe.folder} | (set() if pages else everywhere(project.planner, plan))
    for path in project.planner.scan.looked_at():
        # A file that is added in place of a missing one changes its folder.
        paths |= {path.absolute(), path.parent.absolute()}
    unseen = (
        {pages.head.names[number] for number in pages.head.unseen} if pages else plan.states.keys()
    )
    for name in unseen & plan.states.keys():
        paths |= results(project.planner, plan.states[name])
    known, base = (pages.all_paths(), pages.base) if pages else (set[bytes](), b"")
    return {
        path: snapshot.stat_of(path)
        for path in sorted(map(str, paths))
        if os.fsencode(path).removeprefix(base) not in known
    }
