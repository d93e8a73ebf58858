"""Confidence sequences hold at all moments at once: simulated, and against their definition."""

from __future__ import annotations

import random
from math import comb

import pytest
from scipy.special import beta

from olivebuild.metrics.confidence_sequence import PRIOR, ShareSequence
from olivebuild.metrics.gates import wilson


def _streams(rows: int, right: int, count: int) -> list[list[bool]]:
    draw = random.Random(rows * 1000 + right)
    return [draw.sample([True] * right + [False] * (rows - right), rows) for _ in range(count)]


@pytest.mark.parametrize(("rows", "right"), [(60, 48), (60, 3), (60, 60), (200, 160)])
def test_the_bounds_hold_the_number_at_all_moments_in_95_of_100_streams(
    rows: int, right: int
) -> None:
    count = 1000 if rows == 60 else 300
    left = 0
    for stream in _streams(rows, right, count):
        sequence = ShareSequence(rows)
        holds = True
        for answer in stream:
            sequence.see(right=answer)
            holds = holds and sequence.low <= right <= sequence.high
        left += not holds
    assert left / count <= 0.05


def test_wilsons_interval_does_not_hold_at_all_moments() -> None:
    """The simulation can tell the two apart."""
    left = 0
    for stream in _streams(200, 160, 300):
        seen = 0
        for i, answer in enumerate(stream, 1):
            seen += answer
            low, high = wilson(seen / i, i)
            if not low <= 0.8 <= high:
                left += 1
                break
    assert left / 300 > 0.15


def test_after_the_last_row_nothing_is_uncertain() -> None:
    sequence = ShareSequence(40)
    for i in range(40):
        sequence.see(right=i % 4 > 0)
    assert (sequence.low, sequence.high) == (30, 30)
    with pytest.raises(ValueError, match="no more than 40"):
        sequence.see(right=True)


def test_the_bounds_never_widen_and_never_leave_what_is_certain() -> None:
    # First all right, then all wrong: no random order, and the true number may be refuted.
    sequence, before = ShareSequence(300), (0, 300)
    for i in range(300):
        sequence.see(right=i < 150)
        certain = (min(i + 1, 150), 300 - max(0, i + 1 - 150))
        assert certain[0] <= sequence.low <= sequence.high <= certain[1]
        if before[0] <= before[1] <= certain[1]:
            assert sequence.low >= before[0]
        before = (sequence.low, sequence.high)
    assert sequence.low == sequence.high == 150


def test_a_number_is_refuted_where_the_mixture_is_20_times_as_likely() -> None:
    sequence = ShareSequence(30)
    for i in range(12):
        sequence.see(right=i != 5)

    def ratio(total: int) -> float:
        mixture = beta(PRIOR + 11, PRIOR + 1) / beta(PRIOR, PRIOR)
        return float(mixture / (comb(30 - 12, total - 11) / comb(30, total)))

    assert ratio(sequence.low) < 20 <= ratio(sequence.low - 1)
    # Certain: one of the rows was wrong.
    assert sequence.high == 29
    assert ratio(29) < 20


def test_an_empty_data_set_has_no_right_rows() -> None:
    sequence = ShareSequence(0)
    assert (sequence.low, sequence.high) == (0, 0)
