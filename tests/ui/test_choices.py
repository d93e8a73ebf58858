"""A gate's outcome in the words of a report."""

from __future__ import annotations

import pytest

from olivebuild.metrics.gates import Judgement
from olivebuild.ui.report.collect.choices import verdict


@pytest.mark.parametrize(
    ("judged", "value", "note"),
    [
        (Judgement("b", "accuracy >= 0.9", 0.912, True), "91.2 %", ""),
        (
            Judgement("b", "accuracy drop vs a <= 0.02", 0.05, False, (-0.02, 0.12)),
            "5.0 points",
            "-2.0 to 12.0 points",
        ),
        (
            Judgement("b", "accuracy drop vs a <= 0.02", 0.05, True, (-0.02, 0.12), True),
            "5.0 points",
            "-2.0 to 12.0 points: may be chance",
        ),
    ],
)
def test_a_verdict_has_its_value_in_the_unit_of_the_figure(
    judged: Judgement, value: str, note: str
) -> None:
    told = verdict(judged)
    assert (told.value, told.passed) == (value, judged.passed)
    assert told.note == note
