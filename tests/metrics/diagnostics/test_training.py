"""Curves of losses with drawn noise: at most 5 % alarms of each code where nothing is the matter,
and what is planted is told.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest

from olivebuild.metrics.diagnostics.training import (
    _chance_of_order,
    more_steps,
    of_training,
    trend_of,
)

TRIALS = 200


def noise(random: np.random.Generator, steps: int, spread: float, alike: float = 0.0) -> Any:
    """Factors of a batch's loss: log-normal, a share of it carried on to the next step."""
    drawn = random.normal(0, spread, steps)
    for i in range(1, steps):
        drawn[i] = alike * drawn[i - 1] + math.sqrt(1 - alike**2) * drawn[i]
    return np.exp(drawn)


def metrics(losses: Sequence[float], evaluations: Sequence[float] = (), **more: Any) -> Any:
    curve: dict[str, Any] = {
        "step": [float(i + 1) for i in range(len(losses))],
        "loss": [float(y) for y in losses],
        "grad_norm": [1.0] * len(losses),
    }
    if len(evaluations):
        every = len(losses) / len(evaluations)
        curve["eval_step"] = [(i + 1) * every for i in range(len(evaluations))]
        curve["eval_loss"] = [float(y) for y in evaluations]
    return {"curve": curve, **more}


def codes(losses: Sequence[float], evaluations: Sequence[float] = (), **more: Any) -> list[str]:
    return [d.code for d in of_training("adapter", metrics(losses, evaluations, **more))]


def falling(steps: int, time: float, end: float = 0.4, begin: float = 3.0) -> Any:
    """A loss that falls exponentially, so many steps for each factor of e."""
    return end + (begin - end) * np.exp(-np.arange(steps) / time)


@pytest.mark.parametrize("steps", [36, 120, 400])
@pytest.mark.parametrize("spread", [0.03, 0.3, 0.8])
@pytest.mark.parametrize("alike", [0.0, 0.2])
def test_a_loss_that_has_levelled_off_raises_no_alarm(
    steps: int, spread: float, alike: float
) -> None:
    random, counts = np.random.default_rng(steps), Counter[str]()
    for _ in range(TRIALS):
        evaluations = falling(10, 1) * noise(random, 10, 0.02)
        losses = falling(steps, steps / 20) * noise(random, steps, spread, alike)
        counts.update(codes(losses, evaluations if steps > 100 else ()))
    assert all(count <= 0.05 * TRIALS for count in counts.values()), counts


@pytest.mark.parametrize("count", [6, 10, 20])
def test_held_out_losses_that_move_up_and_down_raise_no_alarm(count: int) -> None:
    random, alarms = np.random.default_rng(count), 0
    for _ in range(TRIALS):
        alarms += "overfit" in codes([0.5] * 100, 0.5 * noise(random, count, 0.2))
    assert alarms <= 0.05 * TRIALS


@pytest.mark.parametrize(("steps", "spread"), [(60, 0.05), (200, 0.2), (500, 0.3)])
def test_a_loss_that_still_falls_is_told(steps: int, spread: float) -> None:
    random, told = np.random.default_rng(1), 0
    for _ in range(40):
        losses = falling(steps, steps / 1.5) * noise(random, steps, spread)
        told += codes(losses) == ["loss-falling"]
    assert told >= 32


def test_what_is_said_of_it() -> None:
    losses = falling(90, 45) * noise(np.random.default_rng(4), 90, 0.02)
    (diagnostic,) = of_training("adapter", metrics(losses))
    assert diagnostic.severity == "warning"
    assert diagnostic.text.startswith("the training loss of adapter still falls at the last step")
    assert "over the last 30 of 90 steps (p < 0.001)" in diagnostic.text
    assert 60 <= int(str(diagnostic.figures["more_steps"])) <= 180
    assert "more steps may help, a guess" in diagnostic.hint


def test_more_steps_follow_the_fall() -> None:
    points = [(float(i + 1), float(y)) for i, y in enumerate(falling(300, 100, end=1.0))]
    trend = trend_of(points[-100:])
    assert trend
    # Each further hundred falls by 1/e: 0.17 ... 0.01 of a loss of 1.1 takes three.
    assert more_steps(points, points[-100:], trend) == 300
    straight = [(float(i + 1), 3 - i / 100) for i in range(90)]
    trend = trend_of(straight[-30:])
    assert trend
    assert more_steps(straight, straight[-30:], trend) == 90


def test_rows_that_are_seen_again_are_known_from_epoch_to_epoch() -> None:
    random = np.random.default_rng(2)
    stairs = np.repeat([1.0, 0.7, 0.5, 0.36, 0.25], 20) * noise(random, 100, 0.05)
    assert codes(stairs) == ["loss-falling"]
    assert codes(stairs, epochs=5.0) == []


def test_nothing_more_is_learnt_where_the_held_out_loss_was_better_before() -> None:
    losses = falling(90, 45) * noise(np.random.default_rng(4), 90, 0.02)
    assert codes(losses, [0.9, 0.7, 0.6]) == ["loss-falling"]
    assert codes(losses, [0.9, 0.6, 0.61]) == []


def test_a_loss_that_rises_is_an_error() -> None:
    losses = [*falling(60, 10), *np.linspace(0.4, 0.9, 30)]
    losses = losses * noise(np.random.default_rng(3), 90, 0.05)
    (diagnostic,) = of_training("adapter", metrics(losses))
    assert (diagnostic.code, diagnostic.severity) == ("loss-rising", "error")


def test_a_loss_that_jumps_is_told_with_its_step() -> None:
    losses = list(falling(90, 5) * noise(np.random.default_rng(3), 90, 0.1))
    losses[70] = 9.5
    (diagnostic,) = of_training("adapter", metrics(losses))
    assert diagnostic.code == "loss-unstable"
    assert "jumps to 9.5 at step 71, where 0.378 is" in diagnostic.text
    wild = metrics(list(falling(90, 5)))
    wild["curve"]["grad_norm"][40] = 900.0
    (diagnostic,) = of_training("adapter", wild)
    assert diagnostic.text.startswith("the norm of the gradient of adapter jumps to 900")


def test_a_held_out_loss_that_rises() -> None:
    losses = falling(90, 30, end=0.05)
    evaluations = [0.9, 0.6, 0.5, 0.55, 0.6, 0.7, 0.75, 0.8, 0.9]
    (kept,) = of_training("adapter", metrics(losses, evaluations, kept_step=30.0))
    assert (kept.code, kept.severity) == ("overfit", "warning")
    assert kept.text == (
        "the held-out loss of adapter rises from 0.5 at step 30 to 0.9 at step 90, while the "
        "training loss falls: it learns its rows by heart"
    )
    assert "step 30 were kept" in kept.hint
    (last,) = of_training("adapter", metrics(losses, evaluations, kept_step=90.0))
    assert last.severity == "error"


@pytest.mark.parametrize("n", [3, 5, 6])
def test_the_chance_of_an_order_is_that_among_all_orders(n: int) -> None:
    orders = [sum(b > a for a, b in combinations(o, 2)) for o in permutations(range(n))]
    for rises in range(n * (n - 1) // 2 + 1):
        share = sum(r >= rises for r in orders) / len(orders)
        assert _chance_of_order(n, rises) == pytest.approx(share)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"curve": None},
        {"curve": {}},
        {"curve": {"step": [1.0], "loss": [None]}},
        {"curve": {"step": [1.0, 2.0], "loss": ["a", float("nan")], "eval_loss": [1]}},
    ],
)
def test_traces_without_curves_say_nothing(broken: dict[str, Any]) -> None:
    assert [*of_training("adapter", broken)] == []
