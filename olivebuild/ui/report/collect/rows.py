"""Rows of data sets, for people: the prompts behind answers, and the bytes of files that lie in the
store.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from olivebuild.cache.traces import Trace
from olivebuild.core.errors import Damaged

if TYPE_CHECKING:
    from olivebuild.ui.report.collect.evidence import Evidence

LONGEST = 240
MAX_BYTES = 64 << 20
"""Larger files of rows are not read for a page."""


def clip(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def stored(evidence: Evidence, trace: Trace | None, name: str) -> bytes | None:
    """A file of what a trace made; None when the store no longer has it, or it is large."""
    store = evidence.project.planner.store
    try:
        manifest = store.manifest(trace.manifest) if trace and trace.manifest else None
        entry = next((e for e in manifest.files if e.name == name), None) if manifest else None
        return (
            b"".join(store.read(blob) for blob, _ in entry.runs())
            if entry and entry.size <= MAX_BYTES
            else None
        )
    except (Damaged, ValueError, OSError):
        return None


def asked(evidence: Evidence, trace: Trace | None, name: str) -> list[tuple[str, str]]:
    """(what is asked, what is right) of each row of a data set's parquet file; [] when it can't be
    read here.
    """
    data = stored(evidence, trace, name)
    try:
        import pyarrow.parquet as pq
    except ImportError:
        return []
    if data is None:
        return []
    try:
        table = pq.read_table(io.BytesIO(data)).to_pylist()
    except (OSError, ValueError):
        return []
    return [
        (
            _first(row, "prompt", "user", "messages", "text"),
            _first(row, "label", "completion", "assistant"),
        )
        for row in table
    ]


def _first(row: dict[str, object], *names: str) -> str:
    return next((str(row[name]) for name in names if row.get(name)), "")


def prompts(evidence: Evidence, trace: Trace | None, count: int) -> list[str]:
    """The prompts of a data set's test rows; [] when they are not the `count` rows that were
    asked.
    """
    found = [text for text, _ in asked(evidence, trace, "test.parquet")]
    return found if len(found) == count else []


def unframed(found: Sequence[str]) -> list[str]:
    """Texts without the words with which all begin, and those with which all end: the template."""
    if len(found) < 2:
        return list(found)
    head = _shared(found)
    tail = _shared([text[head:][::-1] for text in found])
    return [text[head : len(text) - tail].strip() for text in found]


def _shared(found: Sequence[str]) -> int:
    """How many characters all begin with, back to the last end of a word, so that no word is
    cut.
    """
    least, most = min(found), max(found)
    same = next(
        (i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b),
        min(len(least), len(most)),
    )
    while same and least[same - 1].isalnum():
        same -= 1
    return same
