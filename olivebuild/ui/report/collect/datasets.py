"""A data set's own report -> its records, and which rows its last edit changed."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from olivebuild.data.drops import told
from olivebuild.ui.report.collect import rows
from olivebuild.ui.report.records import DataSet, Drop, Edit

if TYPE_CHECKING:
    from olivebuild.ui.report.collect.evidence import Evidence

MAX_LABELS, MAX_EDITS = 40, 24


def data_set(evidence: Evidence, target: str) -> DataSet | None:
    """Return a data set's records; None before its first result."""
    trace = evidence.trace(target)
    report = _report(rows.stored(evidence, trace, "report.json"))
    failed = evidence.failed(target)
    if trace is None or not report:
        return DataSet(target, {}, (), failed=failed) if failed else None
    figures = {k.replace("_", " "): f"{v:,}" for k, v in report.items() if isinstance(v, int)}
    train, test = (report.get(k) or {} for k in ("train", "test_split"))
    for side, counts in (("train", train), ("test", test)):
        figures[f"{side} rows"] = f"{counts.get('rows', 0):,}"
    edits, added, removed, since = _edits(evidence, target, trace.key)
    drops: list[Drop] = []
    lines = []
    for side, counts in _sides(report):
        drops += (
            Drop(d["why"], d["count"], d["first"], d["fault"], side)
            for d in counts.get("drops") or ()
        )
        if line := told(counts):
            lines.append(f"{side}: {line}" if side else line)
    return DataSet(
        target=target,
        figures=figures,
        labels=_labels(train.get("by_label") or {}, test.get("by_label") or {}),
        edits=edits,
        added=added,
        removed=removed,
        since=since,
        drops=tuple(drops),
        dropped="; ".join(lines),
        failed=failed,
    )


def _labels(train: Mapping[str, Any], test: Mapping[str, Any]) -> tuple[tuple[str, int, int], ...]:
    """Return (label, train rows, test rows) of the most frequent labels."""
    names = sorted(name for name in {*train, *test} if name)
    labels = [(name, int(train.get(name, 0)), int(test.get(name, 0))) for name in names]
    labels.sort(key=lambda row: -row[1] - row[2])
    return tuple(labels[:MAX_LABELS])


def _sides(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    test = report.get("test")
    return [("", report), *([("test", test)] if isinstance(test, dict) else [])]


def _report(data: bytes | None) -> Mapping[str, Any]:
    try:
        loaded = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _edits(evidence: Evidence, target: str, key: str) -> tuple[tuple[Edit, ...], int, int, int]:
    """Return (edits, rows added, rows removed, build) of the data set's last edit.

    The build is the first one with the edit; 0 if none is known.
    """
    older = [e for e in evidence.entries if target in e.measured and e.measured[target].key != key]
    if not older:
        return (), 0, 0, 0
    before = evidence.project.planner.traces.get(older[-1].measured[target].key)
    now, added, removed = evidence.trace(target), 0, 0
    edits: list[Edit] = []
    for side in ("train", "test"):
        old, new = (rows.asked(evidence, trace, f"{side}.parquet") for trace in (before, now))
        if not (old and new):
            continue
        both = [*old, *new]
        texts = rows.unframed([prompt for prompt, _ in both])
        lines = [f"{text} → {right}" for text, (_, right) in zip(texts, both, strict=True)]
        old_lines, new_lines = Counter(lines[: len(old)]), Counter(lines[len(old) :])
        gone = list((old_lines - new_lines).elements())
        come = list((new_lines - old_lines).elements())
        added, removed = added + len(come), removed + len(gone)
        edits += _paired(side, gone, come)
    build = next(e.number for e in evidence.entries if e.number > older[-1].number)
    return tuple(edits[:MAX_EDITS]), added, removed, build


def _paired(side: str, gone: list[str], come: list[str]) -> list[Edit]:
    """Return the edits; a reworded row is one of them, unless there are too many to compare."""
    edits = []
    if len(gone) * len(come) <= 400:
        for text in list(gone):
            close = difflib.get_close_matches(text, come, 1, 0.6)
            if close:
                gone.remove(text)
                come.remove(close[0])
                edits.append(Edit(side, rows.clip(text), rows.clip(close[0])))
    return [
        *edits,
        *(Edit(side, rows.clip(t), "") for t in gone),
        *(Edit(side, "", rows.clip(t)) for t in come),
    ]
