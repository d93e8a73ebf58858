"""Intervals and verdicts: against published figures and the libraries, and by drawing: noise is not
called a change, a loss is found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from olivebuild.metrics.statistics import (
    Verdict,
    detectable,
    differing_share,
    macro_f1,
    median_interval,
    over_seeds,
    paired_means,
    paired_rounds,
    paired_shares,
    power,
    rows_needed,
    share_interval,
    tango,
)

approx: Any = pytest.approx
"""Stands where a float does, which its own type does not say."""


def test_wilson_interval_of_a_share() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert share_interval(81, 263) == approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(0, 20) == approx((0.0, 0.1611), abs=5e-5)
    assert share_interval(0, 0) is None


def test_tango_interval_of_a_paired_difference() -> None:
    # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850: airway
    # hyper-responsiveness, 21 children.
    assert tango(1, 7, 21) == approx((-0.517, -0.026), abs=5e-4)
    assert tango(7, 1, 21) == approx((0.026, 0.517), abs=5e-4)
    assert tango(0, 0, 40) == approx((-0.0876, 0.0876), abs=5e-5)


@pytest.mark.parametrize(
    ("won", "lost", "rows"),
    [(0, 9, 9), (9, 0, 9), (1, 0, 1), (0, 1, 1), (3, 4, 7), (0, 200, 5000), (2500, 2500, 5000)],
)
def test_tango_interval_holds_the_difference_and_stays_inside(
    won: int, lost: int, rows: int
) -> None:
    low, high = tango(won, lost, rows)
    assert -1 <= low <= (won - lost) / rows <= high <= 1


def test_the_median_of_too_few_samples_has_no_interval() -> None:
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (1.0, 6.0)
    assert median_interval([]) is None


def test_paired_shares_is_mcnemars_exact_test() -> None:
    first, second = [True] * 10 + [False] * 8 + [True] * 2, [True] * 10 + [True] * 8 + [False] * 2
    found = paired_shares(first, second)
    # 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10
    assert (found.lost, found.won, found.p, found.verdict) == (
        8,
        2,
        approx(2 * 56 / 1024),
        Verdict.NOISE,
    )
    assert paired_shares([False] * 8, [True] * 8).verdict is Verdict.WORSE
    assert paired_shares([True] * 8, [False] * 8).verdict is Verdict.BETTER
    assert paired_shares([], []).verdict is Verdict.NOISE


def test_macro_f1_is_sklearns() -> None:
    random = np.random.default_rng(1)
    expected, first, second = (["abcd"[i] for i in random.integers(0, 4, 60)] for _ in range(3))
    first[:40], second[:20] = expected[:40], expected[:20]
    found = macro_f1(expected, first, second)
    assert found.value == approx(
        f1_score(expected, first, average="macro") - f1_score(expected, second, average="macro")
    )
    assert found.interval
    assert found.interval[0] < found.value < found.interval[1]


@pytest.mark.parametrize("differing", [0.0, 0.05, 0.2])
def test_a_loss_of_3_points_is_found_at_the_rows_that_are_named(differing: float) -> None:
    random, loss = np.random.default_rng(0), 0.03
    rows, share = rows_needed(loss, differing), max(differing, loss)
    found = 0
    for _ in range(200):
        drawn = random.random(rows)
        lost, differs = drawn < (share + loss) / 2, drawn < share
        found += (
            paired_shares(
                (~differs | (differs & ~lost)).tolist(), (~differs | lost).tolist()
            ).verdict
            is Verdict.WORSE
        )
    assert found >= 170
    assert power(rows - 1, loss, share) < 0.9 <= power(rows, loss, share)


def test_the_loss_that_so_many_rows_show() -> None:
    assert detectable(5, 0.1) is None
    found = detectable(86, differing_share(3, 3, 86))
    assert found
    assert power(86, found, max(found, 7 / 88)) >= 0.9
    assert rows_needed(found, 7 / 88) <= 86


def test_means_and_seeds() -> None:
    assert paired_means([1.0] * 8, [0.0] * 8).verdict is Verdict.BETTER
    assert paired_means([1.0] + [0.0] * 99, [0.0] * 100).p == 1.0
    # Four rows of a hundred, each as much better: Student's t would call that 1 in 20, but signs
    # fall so in 1 of 8.
    few = paired_means([0.5] * 4 + [0.0] * 96, [0.0] * 100)
    assert (few.verdict, few.p) == (Verdict.NOISE, approx(1 / 8))
    assert paired_means([1.0, 1.0], [1.0, 1.0]).verdict is Verdict.NOISE
    assert paired_means([1.0], [0.0]).verdict is Verdict.NOISE
    worse = paired_means([3.0, 4.1, 5.0, 6.0] * 2, [2.0, 3.0, 4.0, 5.0] * 2, higher_is_better=False)
    assert worse.verdict is Verdict.WORSE


def test_over_seeds() -> None:
    mean, deviation, interval = over_seeds([0.9, 0.92, 0.94])
    assert (mean, deviation) == (approx(0.92), approx(0.02))
    assert interval == approx((0.8703, 0.9697), abs=1e-4)
    assert over_seeds([0.9]) == (0.9, 0.0, None)


def test_rounds_that_are_all_slower_are_a_change() -> None:
    found = paired_rounds(
        [2.0, 2.2, 4.0, 2.1, 2.0, 2.4, 2.0, 2.2, 2.1], [1.0, 1.1, 2.0, 1.0, 1.0, 1.2, 1.0, 1.1, 1.0]
    )
    assert found.verdict is Verdict.WORSE
    assert found.ratio == approx(2.0)
    assert found.ratio_interval
    assert 1.9 < found.ratio_interval[0] <= 2.0 <= found.ratio_interval[1] < 2.2
    assert paired_rounds([2.0] * 5, [1.0] * 5).verdict is Verdict.NOISE
    assert paired_rounds([1.04] * 20, [1.0] * 20).verdict is Verdict.NOISE
    assert paired_rounds([1.06] * 20, [1.0] * 20).verdict is Verdict.WORSE
