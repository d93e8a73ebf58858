"""Statistics of metrics, against noise.

Intervals, paired comparisons, and how many rows a loss takes to be seen. Knows no models.

Intervals are at 95 %. Verdicts are at 99 %, since a benchmark makes many comparisons: of a hundred
of equals about one says otherwise. Nothing else is corrected for looking at many at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from olivebuild.metrics.tango_score import tango_score

LEVEL = 0.95
CLEAR = 0.99
"""How sure a difference must be to be called better or worse."""
POWER = 0.9
"""How often a loss shall be found at the number of rows that is named for it."""
LOSSES = (0.01, 0.02, 0.03, 0.05)
RESAMPLES = 2000
FEW = 200
"""So many rows that differ are many: their mean is near enough to normal for Student's t."""
OWN_SPEED = 1.05
"""Each process has a speed of its own, by where its memory lies, which no number of rounds evens
out: copies of a model differ by so much.
"""
Interval = tuple[float, float]


class Verdict(Enum):
    """The verdict of a difference on the first of two."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"


@dataclass(frozen=True)
class Difference:
    """First minus second, in the metric's unit, and whether that is more than noise."""

    value: float
    interval: Interval | None
    verdict: Verdict
    p: float | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    lost: int | None = None
    """Rows that only the second got right."""
    won: int | None = None
    """Rows that only the first got right."""


def share_interval(right: int, rows: int) -> Interval | None:
    """Wilson's, of a share of rows."""
    if not rows:
        return None
    interval = stats.binomtest(right, rows).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def median_interval(samples: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Return the interval of a median from order statistics, for any distribution.

    None for fewer than six samples (at 99 % eight), which can't say that much.
    """
    if len(samples) < 2:
        return None
    interval = stats.quantile_test(samples, p=0.5).confidence_interval(level)
    return (
        (float(interval.low), float(interval.high))
        if math.isfinite(interval.low) and math.isfinite(interval.high)
        else None
    )


def paired_shares(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare two models on the same rows, right or wrong.

    McNemar's exact test, and Tango's interval of the difference.
    """
    won = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    p = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    interval = tango(won, lost, len(first)) if first else None
    return Difference(
        (won - lost) / max(1, len(first)),
        interval,
        _verdict(won - lost, p < 1 - CLEAR),
        p,
        lost=lost,
        won=won,
    )


def tango(won: int, lost: int, rows: int, level: float = LEVEL) -> Interval:
    """Score interval of a paired difference of shares, (won - lost) / rows.

    Tango 1998, Statistics in Medicine 17:891.
    """
    z, estimate = float(stats.norm.ppf((1 + level) / 2)), (won - lost) / rows

    def score(delta: float) -> float:
        return tango_score(won, lost, rows, delta)

    step = 1e-9
    low = (
        float(brentq(lambda d: score(d) - z, step - 1, estimate - step))
        if estimate > 2 * step - 1 and score(step - 1) > z
        else -1.0
    )
    high = (
        float(brentq(lambda d: score(d) + z, estimate + step, 1 - step))
        if estimate < 1 - 2 * step and score(1 - step) < -z
        else 1.0
    )
    return low, high


def paired_means(
    first: Sequence[float], second: Sequence[float], *, higher_is_better: bool = True
) -> Difference:
    """Two models on the same rows, a number each: the mean difference.

    Interval by Student's t, and the test, too, unless few rows differ.
    """
    gaps = np.subtract(first, second)
    value = float(gaps.mean()) if len(gaps) else 0.0
    if len(gaps) < 2:
        return Difference(value, None, Verdict.NOISE)
    interval = (value, value)
    if np.ptp(gaps):
        bounds = stats.ttest_1samp(gaps, 0.0).confidence_interval(LEVEL)
        interval = (float(bounds.low), float(bounds.high))
    p = _chance(gaps[gaps != 0])
    return Difference(
        value, interval, _verdict(value if higher_is_better else -value, p < 1 - CLEAR), p
    )


def _chance(gaps: np.ndarray) -> float:
    """Return how likely such a mean is if the two models were equal.

    A few gaps of one sign look sure to Student's t: it takes their spread for known.
    """
    if len(gaps) > FEW:
        return float(stats.ttest_1samp(gaps, 0.0).pvalue)
    if len(gaps) < 2:
        return 1.0
    # The two models exchanged on every row, or, of more than eleven, on some drawn at random.
    random = np.random.default_rng(0)
    test = stats.permutation_test(
        (gaps,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=random,
    )
    return float(test.pvalue)


def paired_rounds(
    first: Sequence[float], second: Sequence[float], *, higher_is_better: bool = False
) -> Difference:
    """Compare two models that took turns, a positive number a round.

    Medians of the rounds' differences and ratios.
    """
    gaps, ratios = np.subtract(first, second), np.log(np.divide(first, second))
    between, surely = median_interval(ratios.tolist()), median_interval(ratios.tolist(), CLEAR)
    middle = float(np.median(ratios))
    clear = surely is not None and (
        surely[0] > math.log(OWN_SPEED) or surely[1] < -math.log(OWN_SPEED)
    )
    return Difference(
        value=float(np.median(gaps)),
        interval=median_interval(gaps.tolist()),
        verdict=_verdict(middle if higher_is_better else -middle, clear),
        ratio=math.exp(middle),
        ratio_interval=(math.exp(between[0]), math.exp(between[1])) if between else None,
    )


def macro_f1(expected: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Difference:
    """Return the difference of two models' macro F1 on the same rows.

    The interval is by drawing rows anew, the test by exchanging the two on some of the rows.
    """
    labels = sorted({*expected, *first, *second})
    number = {label: i for i, label in enumerate(labels)}
    rows = np.array(
        [[number[label] for label in row] for row in zip(expected, first, second, strict=True)]
    ).reshape(-1, 3)
    cells, counts = np.unique(rows, axis=0, return_counts=True)
    random = np.random.default_rng(0)

    def gaps(cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.asarray(
            _f1(cells[:, 0], cells[:, 1], counts, len(labels))
            - _f1(cells[:, 0], cells[:, 2], counts, len(labels))
        )

    value = float(gaps(cells, counts[None])[0])
    drawn = gaps(cells, random.multinomial(len(rows), counts / max(1, len(rows)), RESAMPLES))
    low, high = (float(v) for v in np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    exchanged = random.binomial(counts, 0.5, (RESAMPLES, len(counts)))
    by_chance = gaps(
        np.concatenate([cells, cells[:, [0, 2, 1]]]),
        np.concatenate([counts - exchanged, exchanged], 1),
    )
    p = float((np.abs(by_chance) >= abs(value) - 1e-12).sum() + 1) / (RESAMPLES + 1)
    return Difference(value, (low, high), _verdict(value, p < 1 - CLEAR), p)


def _f1(expected: np.ndarray, answered: np.ndarray, counts: np.ndarray, labels: int) -> np.ndarray:
    """Return the macro F1 of each row of `counts`, over the labels that are expected.

    `counts`: how often each pair (expected, answered) occurs.
    """
    wanted, predicted = np.eye(labels)[expected], np.eye(labels)[answered]
    support = counts @ wanted
    both, total = counts @ (wanted * predicted), support + counts @ predicted
    f1 = np.divide(2 * both, total, out=np.zeros_like(both, dtype=float), where=total > 0)
    there = support > 0
    return np.asarray((f1 * there).sum(1) / np.maximum(1, there.sum(1)))


@cache
def rows_needed(loss: float, differing: float) -> int:
    """Return the rows at which McNemar's test finds a loss of this share 9 times in 10.

    If this share of answers differs anyway.
    """
    differing = max(differing, loss)
    # Connor 1987, Biometrics 43:207: near enough to begin with.
    z = stats.norm.ppf((1 + CLEAR) / 2) * math.sqrt(differing) + stats.norm.ppf(POWER) * math.sqrt(
        differing - loss**2
    )
    high = max(8, int((z / loss) ** 2))
    while power(high, loss, differing) < POWER:
        high = high * 11 // 10 + 1
    low = high * 3 // 4
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, loss, differing) >= POWER else (middle, high)
    return high


@cache
def detectable(rows: int, differing: float) -> float | None:
    """The smallest loss that so many rows show 9 times in 10; None if they show none."""
    if power(rows, 1.0, 1.0) < POWER:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (
            (low, middle)
            if power(rows, middle, max(differing, middle)) >= POWER
            else (middle, high)
        )
    return high


def power(rows: int, loss: float, differing: float) -> float:
    """Return how likely McNemar's exact test calls a loss of this share a loss.

    When this share of the rows differs.
    """
    low, high = stats.binom.ppf([1e-9, 1 - 1e-9], rows, differing)
    differ = np.arange(max(1, low), high + 1)
    least = stats.binom.isf((1 - CLEAR) / 2, differ, 0.5)
    return float(
        (
            stats.binom.pmf(differ, rows, differing)
            * stats.binom.sf(least, differ, (differing + loss) / (2 * differing))
        ).sum()
    )


def differing_share(lost: int, won: int, rows: int) -> float:
    """Return how many answers differ between two such models, carefully guessed.

    None in 8 rows is not none in all.
    """
    return (lost + won + 1) / (rows + 2)


def over_seeds(values: Sequence[float]) -> tuple[float, float, Interval | None]:
    """Return mean and deviation of a metric over trainings with other seeds.

    And the interval of the mean.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, 0.0, None
    deviation = float(np.std(values, ddof=1))
    if not deviation:
        return mean, 0.0, (mean, mean)
    bounds = stats.ttest_1samp(values, mean).confidence_interval(LEVEL)
    return mean, deviation, (float(bounds.low), float(bounds.high))


def _verdict(direction: float, clear: bool) -> Verdict:
    if not clear or not direction:
        return Verdict.NOISE
    return Verdict.BETTER if direction > 0 else Verdict.WORSE
