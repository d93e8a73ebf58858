"""The records of `metrics.json`: what is decoded, what is kept, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import asdict

from olivebuild.cache.traces import Trace
from olivebuild.core.errors import StoreError
from olivebuild.metrics.json_record import Record, decode
from olivebuild.metrics.model_comparison import add_seeds, comparisons
from olivebuild.metrics.records import (
    DataMetrics,
    Metrics,
    ModelMetrics,
    PairedComparison,
    read_choice,
    read_metrics,
)
from olivebuild.metrics.scoring import Fields, Judged, metrics_of

LATER: dict[str, Any] = {
    "data": ["tone"],
    "models": {
        "base": {
            "data": {
                "tone": {
                    "rows": 2,
                    "accuracy": 1,
                    "calibration": 0.02,
                    "calibration_interval": [0.01, 0.03],
                    "answers": [{"expected": "joy", "label": "joy", "entropy": 0.5}],
                }
            },
            "size": 5,
            "quantiles": {"extra": [1, 2]},
        }
    },
    "comparisons": [{"model": "a", "versus": "b", "figure": "accuracy", "cohens_d": 0.1}],
    "latency": {"clock": "monotonic"},
    "*": {"extra": 1},
    "schema": 9,
}


def test_keys_of_a_later_version_are_kept() -> None:
    metrics = decode(LATER, Metrics)
    base = metrics.models["base"]
    row = base.data["tone"]
    assert metrics.extra == {"*": {"extra": 1}, "schema": 9}
    assert base.extra == {"quantiles": {"extra": [1, 2]}}
    assert row.answers[0].extra == {"entropy": 0.5}
    assert metrics.comparisons[0].extra == {"cohens_d": 0.1}
    assert (row.metric("calibration"), row.interval("calibration")) == (0.02, (0.01, 0.03))
    assert list(row.scalars()) == [("rows", 2), ("accuracy", 1.0), ("calibration", 0.02)]
    assert dict(metrics.latency.scalars()) == {"clock": "monotonic"}


def test_a_trace_is_written_again_with_keys_of_a_later_version() -> None:
    trace = Trace("0" * 32, "benchmark", (), {}, metrics=LATER)
    again = Trace.from_json(trace.to_json())
    read_metrics(again.metrics, "bench")
    assert again.metrics == LATER


def test_nothing_is_asked_of_old_files() -> None:
    metrics = decode({"models": {"base": {"size": 5}}, "data": ["tone"]}, Metrics)
    assert metrics.models["base"].metric("ttft") is None
    assert metrics.models["base"].interval("ttft") is None
    assert (metrics.comparisons, metrics.pareto, metrics.latency.rounds) == ((), None, None)


def test_a_score_of_ones_own_is_a_metric_of_the_answers() -> None:
    row = decode({"rows": 7, "tokens": 9, "scores": {"brevity": 0.5, "tokens": 0.25}}, DataMetrics)
    assert [row.metric(name) for name in ("brevity", "tokens", "rows", "f1")] == [
        0.5, 0.25, 7.0, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "place"),
    [
        ({"models": ["base"]}, "$.models"),
        ({"models": {"base": {"ttft": "fast"}}}, "$.models[...].ttft"),
        ({"comparisons": [{"model": "a"}]}, "$.comparisons[0]"),
        ({"data": "tone"}, "$.data"),
        ({"commands": {"evaluate": {"f1": "0.8"}}}, "$.commands[...]"),
        ({"models": {"base": {"size": 10**400}}}, ""),
    ],
)
def test_what_is_malformed_is_one_clear_error(metrics: dict[str, Any], place: str) -> None:
    with pytest.raises(StoreError) as caught:
        read_metrics(metrics, "bench")
    assert caught.value.fact.startswith("the metrics of bench can't be read: ")
    assert place in caught.value.fact
    assert (caught.value.target, caught.value.exit_code) == ("bench", 1)


def test_a_choice_is_read_as_it_is_written() -> None:
    choice = read_choice({"chosen": "int4", "by": "size", "value": 5, "passing": ["int4"]}, "best")
    assert (choice.chosen, choice.value, choice.passing) == ("int4", 5.0, ("int4",))
    with pytest.raises(StoreError, match="the metrics of best can't be read"):
        read_choice({"chosen": 3}, "best")


def _unknown(record: object) -> set[str]:
    """Return the keys below a record that it has no field for."""
    if isinstance(record, Record):
        return set(record.extra) | _unknown([*asdict(record).values()])
    if isinstance(record, dict):
        return _unknown([*record.values()])
    return (
        {key for value in record for key in _unknown(value)}
        if isinstance(record, list | tuple)
        else set()
    )


def test_there_is_a_field_for_every_key_that_is_written() -> None:
    rows = [
        Judged(
            label, label, "joy", "joy", 0.5, 2, Fields(True, True, {"a": True}), {"brevity": 1.0}
        )
        for label in ("joy", "sad", "joy")
    ]
    written = metrics_of(rows, labelled=True, written=True)
    model: dict[str, Any] = {"data": {"tone": written}, "samples": {"ttft": [0.1, 0.2, 0.3]}}
    models = {"base": model, "int4": dict(model, data={"tone": written})}
    found = comparisons(decode(models, dict[str, ModelMetrics]), ["tone"])
    add_seeds(models["int4"], ["tone"], {1: [written]})
    record = decode({"models": models, "data": ["tone"], "comparisons": found}, Metrics)
    assert _unknown(record) == set()
    assert {row.figure for row in record.comparisons} >= {"accuracy", "brevity", "ttft"}
    spread = record.models["int4"].data["tone"].over_seeds["accuracy"]
    assert (spread.worst, spread.values) == (written["accuracy"], (written["accuracy"],) * 2)
    assert record.models["int4"].seeds[0].data["tone"].answers == ()


def test_an_interval_of_another_form_is_none() -> None:
    row = {"model": "a", "versus": "b", "figure": "e2e", "interval": [], "ratio_interval": [1, 2]}
    found = decode(row, PairedComparison)
    assert (found.bounds, found.ratio_bounds) == (None, (1.0, 2.0))
    metrics = decode({"ttft": 1.0, "ttft_interval": [0.5, None]}, ModelMetrics)
    assert metrics.interval("ttft") is None
