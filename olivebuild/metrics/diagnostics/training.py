"""Diagnostics of a training by its curves: still falling, rising, jumping, learnt by heart.

Batches differ, so every loss has noise. Trends are tested by Mann and Kendall's test, which asks
for no distribution, and measured by the median of all slopes (Theil 1950, Sen 1968). It needs no
library, since the parent process judges curves after each build.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist, median
from typing import Any

from msgspec import Struct

from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.metrics.json_record import is_number

LEVEL = 0.01
"""How often a trend is seen where there is none; noise from step to step is a little alike."""
LEAST_POINTS = 8
"""Fewer points than these have no trend."""
SHARE = 3
"""The last third of the steps is looked at."""
TELLING = 0.03
"""A trend over the last part that changes the loss by less than this share is not told."""
ENOUGH = 0.01
"""So small a share of the loss, a further part, is no more worth training for."""
MOST_PARTS = 6
"""The longest guess: as many parts of the steps, which is twice the training."""
AFTER_BEST = 5
"""Evaluations after the best one that it takes to see a rise: 5 of 5 rise by chance in 1 of 120."""
JUMP, WILD = 3.0, 50.0
"""The least factor between a loss, or a gradient's norm, and what is usual there."""
DEVIATIONS = 8.0
"""The least number of robust standard deviations of the logarithm between them."""
AROUND = 5
"""Points before and after one that say what is usual there."""

Points = Sequence[tuple[float, float]]
"""(step, value) pairs in the order of the steps."""


class Trend(Struct, frozen=True):
    """A change over some points, how likely chance makes one as clear, and in which direction."""

    change: float
    p: float
    level: float
    """The median of the values."""

    @property
    def is_told(self) -> bool:
        return self.p < LEVEL and abs(self.change) >= TELLING * abs(self.level)


def of_training(target: str, metrics: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Yield the diagnostics of an adapter's training by the metrics of its trace."""
    curve = metrics.get("curve")
    if not isinstance(curve, Mapping):
        return
    losses = points_of(curve, "step", "loss")
    evaluations = points_of(curve, "eval_step", "eval_loss")
    if overfit(evaluations):
        yield _overfit(target, evaluations, losses, metrics)
    last = last_part(losses, _points_an_epoch(losses, metrics))
    trend = trend_of(last)
    if trend and trend.is_told:
        if trend.change > 0:
            yield _rising(target, losses, last, trend)
        elif not evaluations or min(evaluations, key=lambda p: p[1])[0] == evaluations[-1][0]:
            yield _falling(target, losses, last, trend)
    norms = points_of(curve, "step", "grad_norm")
    if jump := jump_of(losses, JUMP):
        yield _unstable(target, "the loss", *jump)
    elif jump := jump_of(norms, WILD):
        yield _unstable(target, "the norm of the gradient", *jump)


def points_of(curve: Mapping[str, Any], steps: str, values: str) -> list[tuple[float, float]]:
    """Return the points of a curve that are finite numbers."""
    pairs = zip(curve.get(steps) or (), curve.get(values) or (), strict=False)
    return [
        (float(x), float(y))
        for x, y in pairs
        if is_number(x) and is_number(y) and math.isfinite(x) and math.isfinite(y)
    ]


def last_part(points: Points, an_epoch: float | None = None) -> Points:
    """Return the last third of the points, or of it the last epoch; none of too few.

    A row that is seen again is known: the loss falls from epoch to epoch also where nothing more is
    learnt.
    """
    count = len(points) // SHARE
    if an_epoch and an_epoch >= LEAST_POINTS:
        count = min(count, int(an_epoch))
    return points[-count:] if count >= LEAST_POINTS else ()


def _points_an_epoch(losses: Points, metrics: Mapping[str, Any]) -> float | None:
    epochs = metrics.get("epochs")
    return len(losses) / epochs if is_number(epochs) and epochs > 0 else None


def trend_of(points: Points) -> Trend | None:
    """Return the trend of points by Mann and Kendall's test; None of too few.

    Mann 1945, Econometrica 13:245; the variance has no correction for ties, which are rare.
    """
    n = len(points)
    if n < LEAST_POINTS:
        return None
    score, slopes = 0, []
    for (x, y), (later_x, later_y) in combinations(points, 2):
        score += (later_y > y) - (later_y < y)
        slopes.append((later_y - y) / (later_x - x))
    z = max(0, abs(score) - 1) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    change = median(slopes) * (points[-1][0] - points[0][0])
    if score * change < 0:
        change = 0.0
    return Trend(change, NormalDist().cdf(-z), median(y for _, y in points))


def overfit(evaluations: Points) -> bool:
    """Return whether the held-out loss rises after its best value.

    If it only moved up and down, the values after the least one would come in any order: the
    number of pairs in order is compared with all orders (Kendall's exact test).
    """
    if not evaluations:
        return False
    best = min(range(len(evaluations)), key=lambda i: evaluations[i][1])
    after = [y for _, y in evaluations[best + 1 :]]
    if len(after) < AFTER_BEST or median(after[-2:]) < (1 + TELLING) * evaluations[best][1]:
        return False
    rises = sum(b > a for a, b in combinations(after, 2))
    return _chance_of_order(len(after), rises) < 0.01


def _chance_of_order(n: int, rises: int) -> float:
    """Return the share of the orders of n values that have so many rising pairs or more."""
    # counts[k]: orders with k rising pairs, value by value (Kendall 1938, Biometrika 30:81).
    counts = [1]
    for size in range(2, n + 1):
        wider = [0] * (len(counts) + size - 1)
        for k, count in enumerate(counts):
            for more in range(size):
                wider[k + more] += count
        counts = wider
    return sum(counts[rises:]) / sum(counts)


def jump_of(points: Points, factor: float) -> tuple[float, float, float, int] | None:
    """Return (value, step, what is usual there, number of jumps) of the greatest jump.

    None where no value is `factor` times and DEVIATIONS robust deviations above the median around
    it. The first tenth of the steps, in which the rate rises, is left out.
    """
    values = points[len(points) // 10 :]
    if len(values) < 4 * LEAST_POINTS or any(y <= 0 for _, y in values):
        return None
    ys = [y for _, y in values]
    usual = [
        median([*ys[max(0, i - AROUND) : i], *ys[i + 1 : i + 1 + AROUND]]) for i in range(len(ys))
    ]
    logs = [math.log(y / around) for y, around in zip(ys, usual, strict=True)]
    # 1.4826 makes the median deviation a standard deviation, were they normal.
    spread = 1.4826 * median(map(abs, logs))
    limit = max(math.log(factor), DEVIATIONS * spread)
    jumps = [i for i, log in enumerate(logs) if log > limit]
    if not jumps:
        return None
    worst = max(jumps, key=lambda i: logs[i])
    return ys[worst], values[worst][0], usual[worst], len(jumps)


def more_steps(points: Points, last: Points, trend: Trend) -> int:
    """Return how many more steps may help, as a guess.

    The falls of the last two parts are taken to go on in their ratio, until a part's fall is a
    small share of the loss. Where they do not slow down, as many again as there were.
    """
    part, before = len(last), points[-2 * len(last) : -len(last)]
    steps = last[-1][0] - (points[-part - 1][0] if part < len(points) else 0.0)
    earlier, fall = trend_of(before), -trend.change
    ratio = fall / -earlier.change if earlier and earlier.change < 0 else 1.0
    if ratio >= 1:
        return round(points[-1][0])
    parts = math.log(ENOUGH * abs(trend.level) / fall) / math.log(ratio)
    return round(steps * min(MOST_PARTS, max(1, math.ceil(parts))))


def _ends(last: Points) -> tuple[float, float]:
    """Return medians of the first and the last quarter of the points."""
    quarter = max(2, len(last) // 4)
    return median(y for _, y in last[:quarter]), median(y for _, y in last[-quarter:])


def _falling(target: str, losses: Points, last: Points, trend: Trend) -> Diagnostic:
    first, end = _ends(last)
    total, more = round(losses[-1][0]), more_steps(losses, last, trend)
    span = round(last[-1][0] - last[0][0]) + 1
    return Diagnostic(
        code="loss-falling",
        severity="warning",
        text=f"the training loss of {target} still falls at the last step: from {first:.3g} to "
        f"{end:.3g} over the last {span} of {total} steps ({_p(trend.p)})",
        hint=f"about {more} more steps may help, a guess by how the fall slows down; held-out rows "
        "(`eval`) tell when it is enough",
        target=target,
        model=target,
        figures={
            "loss_before": round(first, 5),
            "loss": round(end, 5),
            "steps": total,
            "more_steps": more,
            "p": float(f"{trend.p:.3g}"),
        },
    )


def _rising(target: str, losses: Points, last: Points, trend: Trend) -> Diagnostic:
    first, end = _ends(last)
    span = round(last[-1][0] - last[0][0]) + 1
    return Diagnostic(
        code="loss-rising",
        severity="error",
        text=f"the training loss of {target} rises at the end: from {first:.3g} to {end:.3g} over "
        f"the last {span} of {round(losses[-1][0])} steps ({_p(trend.p)})",
        hint="a smaller training.lr, or a scheduler that lets it fall",
        target=target,
        model=target,
        figures={
            "loss_before": round(first, 5),
            "loss": round(end, 5),
            "steps": round(losses[-1][0]),
            "p": float(f"{trend.p:.3g}"),
        },
    )


def _unstable(
    target: str, what: str, value: float, step: float, usual: float, count: int
) -> Diagnostic:
    more = f" and {count - 1} times more" if count > 1 else ""
    return Diagnostic(
        code="loss-unstable",
        severity="warning",
        text=f"{what} of {target} jumps to {value:.3g} at step {round(step)}{more}, where "
        f"{usual:.3g} is usual",
        hint="a smaller training.lr, a longer warmup, or rows of those steps that are not like "
        "others",
        target=target,
        model=target,
        figures={"value": value, "step": round(step), "usual": usual, "jumps": count},
    )


def _overfit(
    target: str, evaluations: Points, losses: Points, metrics: Mapping[str, Any]
) -> Diagnostic:
    step, best = min(evaluations, key=lambda point: point[1])
    kept = metrics.get("kept_step")
    is_kept = kept == step if is_number(kept) else None
    before = [y for x, y in losses if x <= step][-LEAST_POINTS:]
    after = [y for _, y in losses][-LEAST_POINTS:]
    falls = before and after and median(after) < median(before)
    by_heart = ", while the training loss falls: it learns its rows by heart" if falls else ""
    hint = {
        True: f"the weights of step {step:g} were kept; fewer steps would do",
        False: f"eval.keep: best would keep the weights of step {step:g}",
        None: f"fewer steps, or the weights of step {step:g} (eval.keep: best)",
    }[is_kept]
    return Diagnostic(
        code="overfit",
        severity="error" if is_kept is False else "warning",
        text=f"the held-out loss of {target} rises from {best:.3g} at step {step:g} to "
        f"{evaluations[-1][1]:.3g} at step {evaluations[-1][0]:g}{by_heart}",
        hint=hint,
        target=target,
        model=target,
        figures={
            "best_step": round(step),
            "best_eval_loss": best,
            "eval_loss": evaluations[-1][1],
            "steps": round(evaluations[-1][0]),
        },
    )


def _p(p: float) -> str:
    return f"p {p:.2g}" if p >= 0.001 else "p < 0.001"
