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
    trace = evidence.trace(target)
    report = _report(rows.stored(evidence, trace, "report.json"))
    failed = evidence.failed(target)
    if trace is None or not report:
        return DataSet(target, {}, (), failed=failed) if failed else None
    figures = {k.replace("_", " "): f"{v:,}" for k, v in report.items() if isinstance(v, int)}
    train, test = (report.get(k) or {} for k in ("train", "test_split"))
    figures |= {
        f"{side} rows": f"{counted.get('rows', 0):,}"
        for side, counted in (("train", train), ("test", test))
    }
    by_label = [counted.get("by_label") or {} for counted in (train, test)]
    labels = [
        (name, int(by_label[0].get(name, 0)), int(by_label[1].get(name, 0)))
        for name in sorted({n for side in by_label for n in side if n})
    ]
    labels.sort(key=lambda row: -row[1] - row[2])
    drops = [
        Drop(d["why"], d["count"], d["first"], d["fault"], side)
        for side, found in _sides(report)
        for d in found.get("drops") or []
    ]
    lines = [
        f"{side}: {line}" if side else line
        for side, found in _sides(report)
        if (line := told(found))
    ]
    return DataSet(
        target,
        figures,
        tuple(labels[:MAX_LABELS]),
        *_edits(evidence, target, trace.key),
        tuple(drops),
        "; ".join(lines),
        failed,
    )


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
    """(edits, rows added, rows removed, build) since the last build in which the data set was
    another one.
    """
    older = [e for e in evidence.entries if target in e.measured and e.measured[target].key != key]
    if not older:
        return (), 0, 0, 0
    before = evidence.project.planner.traces.get(older[-1].measured[target].key)
    now, added, removed = evidence.trace(target), 0, 0
    edits: list[Edit] = []
    for side in ("train", "test"):
        sides = [rows.asked(evidence, trace, f"{side}.parquet") for trace in (before, now)]
        if not all(sides):
            continue
        both = [*sides[0], *sides[1]]
        cut = [
            f"{text} → {right}"
            for text, (_, right) in zip(
                rows.unframed([text for text, _ in both]), both, strict=True
            )
        ]
        old, new = Counter(cut[: len(sides[0])]), Counter(cut[len(sides[0]) :])
        gone, come = list((old - new).elements()), list((new - old).elements())
        added, removed = added + len(come), removed + len(gone)
        edits += _paired(side, gone, come)
    return (
        tuple(edits[:MAX_EDITS]),
        added,
        removed,
        next(e.number for e in evidence.entries if e.number > older[-1].number),
    )


def _paired(side: str, gone: list[str], come: list[str]) -> list[Edit]:
    """A row that was reworded is one edit. Many rows are not compared one by one."""
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
