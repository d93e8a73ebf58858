"""What was exported, and files that are not whole."""

from __future__ import annotations

from pathlib import Path

from olivebuild.exporters import shipments
from olivebuild.exporters.shipments import Shipment


def test_shipments_are_told_whatever_else_is_in_the_file(tmp_path: Path) -> None:
    history = tmp_path / "history/a.jsonl"
    assert shipments.read(history) == []
    one = Shipment(target="m", digest="a" * 32, time="2026-11-20T10:00:00Z", place="m.zip")
    two = Shipment(
        target="m", digest="b" * 32, time="2026-11-21T10:00:00Z", place="d", delta=True,
        doubts=("bench: accuracy >= 0.9 is missed",),
    )  # fmt: skip
    shipments.append(history, one)
    with open(shipments.file_of(history), "ab") as f:
        f.write(b'0123 {"target": "torn')
    shipments.append(history, two)
    assert shipments.read(history) == [one, two]
    assert [*shipments.lines([one, two], 5)] == [
        "shipped  2026-11-20 10:00:00  m aaaaaaaaaaaa as m.zip",
        "shipped  2026-11-21 10:00:00  delta of m bbbbbbbbbbbb as d, "
        "although bench: accuracy >= 0.9 is missed",
    ]
    assert [*shipments.lines([one, two], 1)] == [*shipments.lines([two], 5)]
