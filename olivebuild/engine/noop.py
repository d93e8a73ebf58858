"""The writer of snapshots: a build's output, and the stats on which it depends.

The next build of which nothing has changed is answered from it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

from olivebuild import snapshot
from olivebuild.core.fs.files import write_atomically
from olivebuild.planner.invalidation import all_past, answer_stats, answer_variables
from olivebuild.planner.node_db import NodeDb, packed
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project

KEPT = 8
"""The number of commands whose answers are kept for a recipe."""


class Tee:
    """A stream that also keeps what is written to it."""

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
    project: Project, plan: Plan, db: NodeDb | None, started: int, out: str, err: str, code: int
) -> None:
    """Write an answer for the next command of the same words.

    `db`: the node database that the build left; what it has of the nodes is not written again.
    `started`: the file system's time before the first look, in nanoseconds, so that a change in the
    same tick is not missed.
    """
    # A result whose age counts is looked up by each build, so the plan has its node.
    if any(state.node.max_age is not None for state in plan.states.values()):
        return
    stats = answer_stats(project.planner, plan, db)
    if not out or not all_past(stats, started):
        return
    arguments = sys.argv[1:]
    key = snapshot.command_key(arguments)
    file = Path(snapshot.file_of(arguments, key))
    seen = (str((project.workspace.state / snapshot.SEEN).absolute()), db.name) if db else ("", "")
    variables = answer_variables(plan)
    try:
        write_atomically(
            file, snapshot.to_bytes(key, seen, *packed(stats), out, err, code, variables)
        )
        answers = file.parent.glob(f"{snapshot.PREFIX}*")
        for old in sorted(answers, key=lambda p: p.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        # A folder that can't be written has no snapshot, and each build looks at everything.
        return
