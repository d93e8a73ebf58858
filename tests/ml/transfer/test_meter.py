"""Counts of bytes on their way, and how often they are told."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.ml.transfer import meter
from olivebuild.ml.transfer.meter import Meter


def test_all_that_arrived_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(meter, "EVERY", 1000.0)
    counts = Meter("fetching", said.append)
    counts.expect(10)
    for _ in range(5):
        counts.moved(2)
    counts.ended()
    before = len(said)
    counts.flush()
    counts.flush()
    assert before <= 1
    assert said[before:] == [{"way": "fetching", "done": 10, "total": 10, "ended": 1}]
