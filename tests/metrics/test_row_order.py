"""The order in which rows are asked."""

from __future__ import annotations

from olivebuild.metrics.row_order import row_order


def test_the_order_has_each_row_once_and_is_not_that_of_the_file() -> None:
    order = row_order(500)
    assert sorted(order) == list(range(500))
    # A half of the file has about half of the first half: 125 of 250, and 7.9 either way is usual.
    assert abs(sum(row < 250 for row in order[:250]) - 125) < 32


def test_the_order_never_changes() -> None:
    # Kept figures of early decisions would tell something else.
    assert row_order(8) == (7, 4, 3, 0, 2, 1, 5, 6)
    assert row_order(0) == ()
