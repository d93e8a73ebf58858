"""Diagnostics of rows that were dropped or cut. It imports no library: the parent judges by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from olivebuild.metrics.diagnostics.diagnostic import Diagnostic

SHOWN = 3
"""The most reasons that are named."""


def of_drops(target: str, metrics: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Yield the diagnostics of rows that a data set or a training left out, or cut.

    `metrics` are those of a trace. Rows that the data itself asks to leave out are no fault.
    """
    for name, whose in (("drops", ""), ("test_drops", "test "), ("eval_drops", "eval ")):
        read = metrics.get(name.removesuffix("drops") + "read")
        reasons = [row for row in metrics.get(name) or () if isinstance(row, Mapping)]
        for code, kind in (("rows-dropped", False), ("rows-cut", True)):
            part = [
                row for row in reasons if bool(row.get("cut")) is kind and row.get("fault", True)
            ]
            count = sum(int(row.get("count") or 0) for row in part)
            if count and isinstance(read, int):
                yield _dropped(target, code, whose, count, read, part)


def _dropped(
    target: str, code: str, whose: str, count: int, read: int, reasons: Sequence[Mapping[str, Any]]
) -> Diagnostic:
    parts = [
        f"{row.get('count')} x {row.get('why')}"
        + (f" (first {row['first']})" if row.get("first") else "")
        for row in reasons[:SHOWN]
    ]
    parts += [f"{len(reasons) - SHOWN} more reasons"] if len(reasons) > SHOWN else []
    verb = "were cut" if code == "rows-cut" else "were dropped"
    hints = {
        "rows-cut": "what is cut is not learnt: a larger `max_length`, or shorter rows",
        "rows-dropped": "mend the rows, or leave them out of the file",
    }
    return Diagnostic(
        code=code,
        severity="warning",
        text=f"{count} of {read} {whose}rows of {target} {verb}: {'; '.join(parts)}",
        hint=hints[code],
        target=target,
        data="" if code == "rows-cut" else target,
        figures={"rows": read, "count": count, "share": round(count / max(1, read), 6)},
    )
