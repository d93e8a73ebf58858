"""Rows of a data set that are left out, as a line for people: how many, why, and where the first stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_REASONS = 5


def told(report: Mapping[str, Any], name: str = "drops") -> str:
    """`60 of 100 rows dropped: 60 x no value for input (first data/rows.jsonl:1)`; "" if none is dropped.

    `name`: `test_drops` tells of the rows of a test file, as a step's figures have them.
    """
    drops = report.get(name) or []
    if not drops:
        return ""
    parts = [f"{d['count']} x {d['why']} (first {d['first']})" for d in drops[:MAX_REASONS]]
    more = [f"{len(drops) - MAX_REASONS} more reasons"] if len(drops) > MAX_REASONS else []
    test = name == "test_drops"
    count, read = sum(d["count"] for d in drops), report.get("test_read" if test else "read")
    return f"{count} of {read} {'test ' if test else ''}rows dropped: {'; '.join(parts + more)}"
