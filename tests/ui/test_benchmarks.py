"""A benchmark's metrics as records of the report."""

from __future__ import annotations

from olivebuild.metrics.json_record import decode
from olivebuild.metrics.records import Latency
from olivebuild.ui.report.collect.benchmarks import _setting


def test_how_latency_was_measured_is_said_in_words() -> None:
    measured = {
        "prompt_tokens": 1,
        "rounds": 9,
        "rounds_left_out": 1,
        "interleaved": True,
        "why_stopped": "tight",
        "measured_at": "2026-11-20T10:00:00Z",
        "control": {"seconds": 0.05},
    }
    assert _setting(decode(measured, Latency)) == {
        "prompt_tokens": "1",
        "rounds": "9",
        "rounds_left_out": "1",
        "models": "took turns",
        "stopped": "when the times were known well enough",
        "measured": "2026-11-20T10:00:00Z",
    }
    busy = _setting(decode({"busy": 2.08, "interleaved": False}, Latency))
    assert busy == {
        "models": "each alone",
        "note": "the machine was busy: the control took 2.1 times as long",
    }
