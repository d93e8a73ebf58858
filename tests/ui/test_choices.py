"""A gate's outcome in the words of a report."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from olivebuild.metrics.gates import Judgement, State
from olivebuild.ui.report.collect.choices import verdict


def judged(text: str, value: float, state: State, **more: Any) -> Judgement:
    return Judgement(target="b", gate=text, value=value, passed=state == "met", state=state, **more)


@pytest.mark.parametrize(
    ("judgement", "value", "note"),
    [
        (judged("accuracy >= 0.9", 0.912, "met"), "91.2 %", ""),
        (
            judged("accuracy drop vs a <= 0.02", 0.05, "missed", interval=(0.03, 0.12)),
            "5.0 points",
            "3.0 to 12.0 points",
        ),
        (
            judged(
                "accuracy drop vs a <= 0.02",
                0.05,
                "undecided",
                interval=(-0.02, 0.12),
                rows_needed=1234,
            ),
            "5.0 points",
            "-2.0 to 12.0 points; about 1,234 rows would decide",
        ),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_verdict_has_its_value_in_the_unit_of_the_metric(
    judgement: Judgement, value: str, note: str, strict: bool
) -> None:
    shown = verdict(structs.replace(judgement, strict=strict))
    assert (shown.value, shown.state) == (value, judgement.state)
    assert shown.note == note
    assert shown.fails is (judgement.state == "missed" or (strict and not judgement.passed))
