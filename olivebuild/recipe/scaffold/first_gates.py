"""Gates of a new recipe: conditions that its test rows can decide, and why their limits are so.

A gate is met or missed where the whole interval at 95 % lies on one side of its limit. So a limit
that few rows can never be told from decides nothing: it is not written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from olivebuild.data.inspection.about import percent, short
from olivebuild.metrics.gates import wilson

STEP = 0.05
"""Limits of an accuracy are multiples of it."""
CHANGED = 0.1
"""Share of the answers that a conversion may change, half of them for the worse."""
LARGEST_DROP = 0.2
"""A larger limit would let too much pass."""
FEWEST_ROWS = 10
"""With fewer test rows likelihoods are not compared."""
USUAL = 0.9
"""An accuracy with which a gate shall be met: of one that only a perfect model meets nothing is
learnt.
"""


@dataclass(frozen=True, kw_only=True)
class FirstGates:
    """Gates, and lines that say why their limits are so."""

    gates: tuple[str, ...]
    why: tuple[str, ...]


def of_labels(answers: Mapping[str, int], test_rows: int, metric: str = "accuracy") -> FirstGates:
    """Return the gates for answers of a closed set, by how often each is right.

    `metric` is the share of right answers that is measured.
    """
    total = sum(answers.values())
    name, most = max(answers.items(), key=lambda item: item[1])
    limit = _above(most / total, test_rows) if test_rows else 1.0
    gates, why = [], []
    if test_rows and limit < 1 and wilson(max(USUAL, limit), test_rows)[0] >= limit:
        met = next(k for k in range(test_rows + 1) if wilson(k / test_rows, test_rows)[0] >= limit)
        missed = max(k for k in range(test_rows + 1) if wilson(k / test_rows, test_rows)[1] < limit)
        gates.append(f"{metric} >= {limit:g}")
        why += [
            f"`{short(name)}` for all would be right in {percent(most, total)} of the rows, which "
            f"{test_rows} test rows tell from {limit:g}. {met} right ones meet the gate, {missed} "
            "miss it; between them they don't decide.",
        ]
    if drop := _drop(test_rows):
        changed, limit = drop
        gates.append(f"{metric} drop vs merged <= {limit:g}")
        why.append(
            f"int4 may lose {limit:g}: so small a drop can be told from noise if it changes "
            f"{2 * changed} answers, {changed} of them for the worse."
        )
    if not any(gate.startswith(f"{metric} >=") for gate in gates):
        # Where one label is nearly always right, how sure the model is tells more.
        by_likelihood = of_texts(test_rows)
        gates = [*by_likelihood.gates, *gates]
        why = [*by_likelihood.why, *why]
    return FirstGates(gates=tuple(gates), why=tuple(why))


def _above(share: float, test_rows: int) -> float:
    """Return the least limit that a model misses which has this share right.

    Also one that is as lucky as one such model in six: by a standard deviation.
    """
    lucky = share + math.sqrt(share * (1 - share) / test_rows)
    return _up(wilson(min(1.0, lucky), test_rows)[1], STEP)


def of_texts(test_rows: int) -> FirstGates:
    """Return the gates for answers that are texts, of which there is no closed set."""
    if test_rows < FEWEST_ROWS:
        return FirstGates(gates=(), why=())
    return FirstGates(
        gates=("perplexity drop vs base <= 0",),
        why=(
            "What is right must be as likely to the trained model, in int4, as to base, or more.",
        ),
    )


def _drop(test_rows: int) -> tuple[int, float] | None:
    """Return how many rows a conversion may win and lose, and the limit that these meet.

    None where the rows can't tell so small a drop.
    """
    from olivebuild.metrics.statistics import tango

    changed = max(1, math.ceil(CHANGED / 2 * test_rows))
    if 2 * changed > test_rows:
        return None
    limit = _up(-tango(changed, changed, test_rows)[0], 0.01)
    return (changed, limit) if limit <= LARGEST_DROP else None


def _up(value: float, step: float) -> float:
    """Return the next multiple of a step."""
    return round(math.ceil(value / step - 1e-9) * step, 6)
