"""Rows of data sets for a report: prompts and expected answers, read from the store."""

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
    """Return a text of at most `longest` characters, with an ellipsis if it is cut."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def stored(evidence: Evidence, trace: Trace | None, name: str) -> bytes | None:
    """Return a file of a trace's result; None if it is not in the store, or over MAX_BYTES."""
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
    """Return (prompt, expected answer) of each row of a data set's parquet file.

    [] when it can't be read here.
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
    """Return the prompts of a data set's test rows; [] when they are not `count` rows."""
    texts = [text for text, _ in asked(evidence, trace, "test.parquet")]
    return texts if len(texts) == count else []


def unframed(texts: Sequence[str]) -> list[str]:
    """Return texts without their template: the words that all begin and that all end with."""
    if len(texts) < 2:
        return list(texts)
    head = _shared(texts)
    tail = _shared([text[head:][::-1] for text in texts])
    return [text[head : len(text) - tail].strip() for text in texts]


def _shared(texts: Sequence[str]) -> int:
    """Return the length of the common beginning of texts, cut back to the end of a word."""
    # The least and the greatest text differ at least as early as any other two.
    least, most = min(texts), max(texts)
    same = next(
        (i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b),
        min(len(least), len(most)),
    )
    while same and least[same - 1].isalnum():
        same -= 1
    return same
