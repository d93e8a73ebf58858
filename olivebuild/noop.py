"""Writes the snapshot from which the next build of which nothing has changed is answered: what was printed, and all that was looked at."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from olivebuild import digest, snapshot
from olivebuild.memory import ABSENT, Recalled, everywhere, results
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


def save(project: Project, plan: Plan, before: Recalled | None, started: int, out: str, err: str, code: int) -> None:
    """Remember an answer. `started`: the file system's time before the first look, so that a change in the same tick is not missed."""
    found = _looked_at(project, plan, before)
    if not out or not all(stat is None or digest.is_past(stat, started) for stat in found.values()):
        return
    arguments = sys.argv[1:]
    key = snapshot.command_key(arguments)
    file = Path(snapshot.file_of(arguments, key))
    try:
        digest.write_atomically(file, snapshot.to_bytes(key, *packed(found), out, err, code))
        for old in sorted(file.parent.glob(f"{snapshot.PREFIX}*"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        # A folder that can't be written has no snapshot, and each build looks at everything.
        return


def packed(found: Mapping[str, Stat | None]) -> tuple[bytes, bytes]:
    """Paths and stats, as `snapshot.differing` takes them."""
    paths = b"".join(os.fsencode(path) + b"\0" for path in found)
    return paths, array("Q", [n & snapshot.MASK for stat in found.values() for n in stat or snapshot.ABSENT]).tobytes()


def _looked_at(project: Project, plan: Plan, before: Recalled | None) -> dict[str, Stat | None]:
    """Every file and folder on which the plan, and so the answer, depends. What was not looked at now is as it was remembered."""
    found: dict[str, Stat | None] = {}
    paths = everywhere(project.planner, plan) | {project.graph.recipe.folder}
    for path in project.planner.scan.looked_at():
        # A file that is added in place of a missing one changes its folder.
        paths |= {path.absolute(), path.parent.absolute()}
    for name, state in plan.states.items():
        if before and state.thin:
            seen = before.known[name].seen
            stats = zip(*[iter(seen.stats)] * 5, strict=True)
            found |= {path: None if stat == ABSENT else stat for path, stat in zip(seen.paths, stats, strict=True)}
        else:
            paths |= results(project.planner, state)
    return found | {path: snapshot.stat_of(path) for path in sorted(map(str, paths))}
