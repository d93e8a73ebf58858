"""Rows of a data set that are left out or cut, as a line for people.

How many, why, and where the first stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivebuild.core.fs import opening

MAX_REASONS = 5
FAILED = "the last run failed"
SIDES = {"drops": "", "test_drops": "test ", "eval_drops": "eval "}
"""The names that drops have in a step's metrics -> what rows they are of."""


def told(report: Mapping[str, Any], name: str = "drops") -> str:
    """Return a line of what was dropped or cut; "" if nothing was.

    `60 of 100 rows dropped: 60 x no value for input (first data/rows.jsonl:1)`.

    `name`: `test_drops` tells of the rows of a test file, as a step's metrics have them,
    `eval_drops` of those that judge a training.
    """
    drops = report.get(name) or []
    if not drops:
        return ""
    parts = [
        f"{d['count']} x {d['why']}" + (f" (first {d['first']})" if d["first"] else "")
        for d in drops[:MAX_REASONS]
    ]
    more = [f"{len(drops) - MAX_REASONS} more reasons"] if len(drops) > MAX_REASONS else []
    # Of a failed step there is the report, which has the rows of the test file apart.
    read = report.get(name.removesuffix("drops") + "read")
    dropped, cut = (
        sum(d["count"] for d in drops if bool(d.get("cut")) is kind) for kind in (False, True)
    )
    words = [f"{dropped} of {read} {SIDES[name]}rows dropped"] if dropped else []
    words += [f"{cut} cut" if words else f"{cut} of {read} {SIDES[name]}rows cut"] if cut else []
    return f"{' and '.join(words)}: {'; '.join(parts + more)}"


def all_told(metrics: Mapping[str, Any]) -> list[str]:
    """A line for each kind of rows of which a step dropped or cut some."""
    return [line for name in SIDES if (line := told(metrics, name))]


# -- what a step that fails leaves


def report_file(log: str | Path) -> Path:
    """Return where a step with that log leaves its report when it fails.

    It is gone once the step ends well.
    """
    return Path(log).with_suffix(".report.json")


def left_by(log: Path) -> dict[str, Any]:
    """Return the report of the last run that failed with that log.

    As a step's metrics would be; empty where there is none.
    """
    try:
        report = json.loads(opening.read(report_file(log)))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(report, dict):
        return {}
    test = report.get("test")
    return report | (
        {"test_drops": test.get("drops"), "test_read": test.get("read")}
        if isinstance(test, dict)
        else {}
    )


def keep(log: str, recipe_folder: str, report: Mapping[str, Any]) -> str:
    """Keep the report of a step that fails beside its log; return where it lies.

    The path is relative to the recipe's folder if it lies below.

    Nothing else of such a step is kept. `log` is "" where there is none.
    """
    if not report or not log:
        return ""
    file = report_file(log)
    file.write_text(as_text(report), "utf-8")
    folder = Path(recipe_folder)
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def forget(log: str) -> None:
    """Delete what an earlier run left: the step has ended well."""
    if log:
        report_file(log).unlink(missing_ok=True)


def as_text(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
