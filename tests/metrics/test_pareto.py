"""The Pareto front and the choice under gates, on figures of our own."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.metrics.gates import Gate
from olivebuild.metrics.json_record import decode
from olivebuild.metrics.pareto import Front, front, ranked
from olivebuild.metrics.records import Metrics


def figures(**models: tuple[float, float, int]) -> dict[str, Any]:
    """Of each model accuracy, tokens a second and size."""
    rows = {
        name.replace("_", "-"): {
            "data": {"tone": {"accuracy": a}, "hard": {"accuracy": a - 0.1}},
            "tokens_per_second": t,
            "size": s,
        }
        for name, (a, t, s) in models.items()
    }
    return {"models": rows, "data": ["tone", "hard"]}


def front_of(metrics: dict[str, Any]) -> Front | None:
    return front(decode(metrics, Metrics))


FOUR = figures(
    merged=(0.96, 19, 273),
    plain=(0.80, 110, 90),
    mixed=(0.93, 108, 100),
    slow=(0.93, 60, 137),
    worse=(0.79, 112, 90),
)


def test_the_front_is_what_nothing_beats() -> None:
    found = front_of(FOUR)
    assert found
    assert found.to_json() == {
        "quality": "accuracy",
        "data": "tone",
        "speed": "tokens_per_second",
        "front": ["merged", "plain", "mixed"],
        # A lead of two tokens a second is noise.
        "beaten_by": {"slow": "mixed", "worse": "plain"},
    }


def test_what_was_not_timed_is_not_on_the_front() -> None:
    adapter = {"data": {"tone": {"accuracy": 0.99}, "hard": {"accuracy": 0.99}}}
    found, alone = (
        front_of(FOUR | {"models": FOUR["models"] | {"adapter": adapter}}),
        front_of(FOUR | {"models": {"adapter": adapter}}),
    )
    assert (found, alone) == (front_of(FOUR), None)


def test_a_clear_lead_in_speed_counts() -> None:
    found = front_of(figures(a=(0.9, 100, 50), b=(0.8, 106, 50), c=(0.8, 106, 50)))
    assert found
    # Equals don't beat each other.
    assert found.to_json()["front"] == ["a", "b", "c"]


def test_times_are_better_when_they_are_shorter_and_figures_must_be_there_for_all() -> None:
    metrics = figures(a=(0.9, 1, 50), b=(0.9, 1, 50))
    metrics["models"]["a"]["e2e"], metrics["models"]["b"]["e2e"] = 0.5, 0.25
    found = front_of(metrics)
    assert found
    assert (found.speed, found.to_json()["beaten_by"]) == ("e2e", {"a": "b"})
    del metrics["models"]["a"]["data"]["tone"]["accuracy"]
    assert front_of(metrics) is None


@pytest.mark.parametrize(
    ("figure", "gates", "order", "passing"),
    [
        ("size", [], ["plain", "mixed", "slow"], 3),
        ("size", ["accuracy >= 0.9"], ["mixed", "slow", "plain"], 2),
        ("tokens_per_second", ["accuracy >= 0.9"], ["mixed", "slow", "plain"], 2),
        ("accuracy", [], ["mixed", "slow", "plain"], 3),
        ("hard.accuracy", ["hard.accuracy >= 0.8"], ["mixed", "slow", "plain"], 2),
        ("tokens_per_second", ["accuracy drop vs merged <= 0.2"], ["plain", "mixed", "slow"], 3),
        # A gate that names a model is the same for all.
        ("size", ["merged.accuracy >= 0.99"], ["plain", "mixed", "slow"], 0),
    ],
)
def test_the_best_under_gates(
    figure: str, gates: list[str], order: list[str], passing: int
) -> None:
    found = ranked(
        "best",
        decode(FOUR, Metrics),
        ["plain", "slow", "mixed"],
        figure,
        [Gate.parse(g) for g in gates],
    )
    assert [c.model for c in found] == order
    assert [c.passes for c in found] == [True] * passing + [False] * (3 - passing)
