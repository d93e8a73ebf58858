"""The training loop's words for figures that are no numbers."""

from __future__ import annotations

import math

import pytest

from olivebuild.ml.training.loop import not_finite


@pytest.mark.parametrize(
    ("loss", "norm", "words"),
    [
        (5.9, 1.2, ""),
        (math.nan, 1.2, "the loss became nan"),
        (math.inf, math.nan, "the loss became inf"),
        (5.91778, math.nan, "the norm of the gradient became nan, of a loss of 5.918,"),
        (0.5, math.inf, "the norm of the gradient became inf, of a loss of 0.5,"),
    ],
)
def test_the_figure_that_is_no_number_is_named(loss: float, norm: float, words: str) -> None:
    assert not_finite(loss, norm) == words
