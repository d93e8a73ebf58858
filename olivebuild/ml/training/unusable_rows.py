"""Rows that a model can't be trained on, or not as a whole.

Counted by their reasons, told with their places in the data, and held against what the data set
allows.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import InputError
from olivebuild.data import drops
from olivebuild.data.origins import origins_of
from olivebuild.ml.inference.context import REFUSED, context_of

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.ml.data.token_shards import TokenRows


def check_flaws(
    job: Job, rows: TokenRows, folder: str, role: str, *field: str, name: str = "drops"
) -> dict[str, Any]:
    """Return what was dropped and cut of the rows of input `role`; say so.

    For the model in `folder`. The step's metrics have it by that name.

    Raises InputError, and leaves a report, when that is more than the data set allows.
    """
    if not rows.flawed:
        return {}
    table = job.input(role)
    origins = origins_of(table.path)
    counts = Counter((f.flaw.why, f.flaw.fault, f.cut) for f in rows.flawed)
    first: dict[tuple[str, bool, bool], int] = {}
    for f in rows.flawed:
        first.setdefault((f.flaw.why, f.flaw.fault, f.cut), f.row)
    entries = [
        {"why": key[0], "count": n, "first": str(origins.of(first[key]) or ""), "fault": key[1]}
        | ({"cut": True} if key[2] else {})
        for key, n in counts.most_common()
    ]
    figures = {name: entries, name.removesuffix("drops") + "read": rows.read}
    text, faulty = drops.told(figures, name), [f for f in rows.flawed if f.flaw.fault]
    if len(faulty) <= origins.max_dropped * rows.read:
        job.note(text)
        return figures
    kept = drops.keep(job.log, job.action.recipe_folder, figures)
    hint = "; ".join(
        [
            *_hints(rows, context_of(Path(folder))),
            _allowing(rows, len(faulty), table.target, origins.max_dropped),
            *([f"the whole report: {kept}"] if kept else []),
        ]
    )
    raise InputError(text, where=origins.of(faulty[0].row) or job.where(*field), hint=hint)


def _hints(rows: TokenRows, context: int | None) -> list[str]:
    """Return what may be done about rows, by the kinds of their flaws."""
    hints = [hint for hint in dict.fromkeys(f.flaw.hint for f in rows.flawed) if hint]
    if any(f.flaw.why.startswith("refused") and not f.flaw.hint for f in rows.flawed):
        hints.append(REFUSED)
    if longest := max((f.flaw.length for f in rows.flawed), default=0):
        whole = f"`training.max_length: {longest}` takes them whole"
        hints.append(
            f"the model takes {context} tokens: shorten them"
            if context is not None and longest > context
            else whole
        )
    return hints or ["are answers empty? take such rows out of the data set"]


def _allowing(rows: TokenRows, count: int, target: str, limit: float) -> str:
    if not len(rows):
        return "mend the rows: none is left"
    share = -(-count * 100 // rows.read) / 100
    return f"or, if they may go, `max_dropped: {share:g}` on {target} says so (it is {limit:g})"
