"""Diagnostics of a plan's targets, from the metrics of their traces."""

from __future__ import annotations

from typing import Any

from msgspec import to_builtins

from olivebuild.metrics.diagnostics.diagnostic import CODES, Diagnostic, ordered
from olivebuild.metrics.diagnostics.traces import of_traces

DROPS = [{"why": "no value for input", "count": 3, "first": "a.jsonl:2", "fault": True}]
ONE = Diagnostic(code="one-label", severity="error", text="it answers one label", model="merged")


def test_benchmarks_trainings_and_data_sets_are_told_errors_first() -> None:
    metrics: dict[str, dict[str, Any]] = {
        "tone": {"read": 9, "drops": DROPS},
        "adapter": {
            "read": 9,
            "drops": [DROPS[0] | {"cut": True}],
            "curve": {"step": [*range(1, 61)], "loss": [6 / i for i in range(1, 61)]},
        },
        "merged": {"read": 9, "drops": DROPS},
        "bench": {"diagnostics": [to_builtins(ONE)]},
    }
    kinds = {"tone": "dataset", "adapter": "adapter", "merged": "merged", "bench": "benchmark"}
    told = of_traces(kinds, metrics.__getitem__)
    assert [(d.code, d.target or d.model) for d in told] == [
        ("one-label", "merged"),
        ("rows-dropped", "tone"),
        ("rows-cut", "adapter"),
        ("loss-falling", "adapter"),
    ]


def test_what_another_program_spoilt_or_is_not_there_says_nothing() -> None:
    kinds = {"bench": "benchmark", "tone": "dataset", "adapter": "adapter"}
    assert of_traces(kinds, lambda _: {}) == ()
    assert of_traces({"bench": "benchmark"}, lambda _: {"diagnostics": [{"code": 3}]}) == ()
    assert of_traces({"bench": "benchmark"}, lambda _: {"diagnostics": None}) == ()


def test_each_is_told_once_and_an_unknown_code_last() -> None:
    later = Diagnostic(code="from-a-later-version", severity="error", text="b")
    assert ordered([later, ONE, ONE]) == (ONE, later)
    assert "one-label" in CODES
