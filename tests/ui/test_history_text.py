"""The history as text, word for word: figures with their changes, gates with intervals, causes."""

from __future__ import annotations

from typing import Any

from olivebuild.cache.key import Reason
from olivebuild.engine.history import Entry, GateResult, NodeRun, TargetMetrics
from olivebuild.ui.history_text import lines


def build(number: int, accuracy: float, key: str, **more: Any) -> Entry:
    tone = {"rows": 86, "accuracy": accuracy, "accuracy_interval": [accuracy - 0.1, accuracy]}
    models = {
        "base": {"data": {"tone": {"rows": 86, "accuracy": 0.2}}},
        "int4": {"data": {"tone": tone}, "ttft": 0.012, "size": 1e8},
    }
    bench = TargetMetrics("benchmark", key, {"data": ["tone"], "models": models})
    run = NodeRun(
        node="adapter",
        target="adapter",
        kind="adapter",
        key=key,
        restored=False,
        seconds=9.0,
        reasons=(Reason("parameter", "lr", "1", "2"),),
    )
    fields: dict[str, Any] = {"time": f"2026-11-2{number}T10:00:00Z", "measured": {"bench": bench}}
    return Entry(
        goals=(), seconds=61.0, seconds_saved=0.0, fresh=0, number=number, made=(run,),
        **fields | more,
    )  # fmt: skip


def test_figures_and_reasons() -> None:
    gate = GateResult(
        target="bench",
        gate="accuracy >= 0.9",
        value=0.85,
        passed=False,
        state="undecided",
        interval=(0.8, 0.92),
        rows_needed=300,
    )
    entries = [build(1, 0.95, "x"), build(2, 0.5, "y", gates=(gate,)), build(3, 0.5, "y")]
    assert list(lines(entries, 9)) == [
        "    1  2026-11-21 10:00:00  1 run, 0 restored   1 min 01 s",
        "       int4: accuracy on tone 95.0 %, TTFT 12 ms, size 100 MB",
        "       because parameter lr: 1 -> 2",
        "    2  2026-11-22 10:00:00  1 run, 0 restored   1 min 01 s  Not decided: 1 not decided",
        "       int4: accuracy on tone 50.0 % (-45.0 points), TTFT 12 ms, size 100 MB; "
        "changes since build 1",
        "       not decided accuracy >= 0.9: 85.0 % (80.0 to 92.0 %; about 300 rows would decide)",
        "       because parameter lr: 1 -> 2",
        # The same result is not told again.
        "    3  2026-11-23 10:00:00  1 run, 0 restored   1 min 01 s",
        "       because parameter lr: 1 -> 2",
    ]


def test_lines_are_folded_to_the_terminal_between_words() -> None:
    told = list(lines([build(1, 0.95, "x"), build(2, 0.5, "y", folder="/b")], 1, 60))
    assert max(map(len, told[1:])) <= 60
    assert told[1:3] == [
        "       int4: accuracy on tone 50.0 % (-45.0 points), TTFT 12",
        "         ms, size 100 MB; changes since build 1",
    ]


def test_what_failed_and_where() -> None:
    failed = build(
        2, 0.5, "x", failed=("int4",), faults={"int4": "olivebuild.yaml:7:3: no"}, folder="/b"
    )
    told = list(lines([build(1, 0.5, "x", folder="/a"), failed], 1))
    assert told[0].endswith("  failed: int4")
    assert told[2:] == [
        "       int4 failed: olivebuild.yaml:7:3: no",
        "       because parameter lr: 1 -> 2",
        "       in /b",
    ]
