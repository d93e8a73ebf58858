"""Whether the speeds of two measurements can be compared: by their controls."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.metrics.json_record import decode
from olivebuild.metrics.pace import SAME_STRUCTURE, pace_of
from olivebuild.metrics.records import Latency


def latency(seconds: float = 0.05, at: str = "2026-11-20T10:00:00Z", **more: Any) -> Latency:
    control = {"kernel": "k", "threads": 2, "seconds": seconds, "stretch": 1.0}
    return decode({"measured_at": at, "control": control} | more, Latency)


LATER = "2026-11-21T10:00:00Z"


def test_one_measurement_is_no_comparison() -> None:
    pace = pace_of(latency(), latency())
    assert (pace.shared, pace.why) == (True, SAME_STRUCTURE)
    assert not pace_of(latency(), latency(at=LATER)).shared


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            latency(),
            latency(at=LATER, busy=2.08),
            "the machine was busy: the control took 2.1 times",
        ),
        (
            latency(busy=2.08),
            latency(at=LATER),
            "when the other was measured, the machine was busy",
        ),
        (
            latency(),
            latency(0.15, LATER),
            "the machine was busy: the control took 3.0 times as long",
        ),
        (latency(0.15), latency(0.05, LATER), "when the other was measured, the machine was busy"),
        (latency(), decode({"measured_at": LATER}, Latency), "no control ran beside both"),
        (
            latency(),
            latency(at=LATER, control={"kernel": "other", "threads": 2, "seconds": 0.05}),
            "another control ran beside each",
        ),
        (
            latency(control={"kernel": "k", "threads": 2, "seconds": 1.0, "gpu_seconds": 1.0}),
            latency(
                at=LATER,
                control={"kernel": "k", "threads": 2, "seconds": 1.0, "gpu_seconds": 4.0},
            ),
            "the machine was busy: the control took 4.0 times as long",
        ),
    ],
)
def test_a_busy_machine_is_said_instead(old: Latency, new: Latency, why: str) -> None:
    pace = pace_of(old, new)
    assert pace.why.startswith(why)
    assert not pace.shared


def test_what_the_control_explains_is_noise() -> None:
    pace = pace_of(latency(0.05), latency(0.055, LATER))
    assert pace.why == ""
    assert pace.factor == pytest.approx(1.1)
    # 12 % slower, of which the machine explains 10.
    assert pace.is_noise("ttft", 1.0, 1.12)
    assert pace.is_noise("tokens_per_second", 1.12, 1.0)
    assert not pace.is_noise("ttft", 1.0, 1.3)
    assert not pace.is_noise("tokens_per_second", 1.0, 1.1)
    assert not pace.is_noise("size", 1.0, 1.01)


def test_measurements_from_before_there_were_controls_are_compared_as_before() -> None:
    assert pace_of(Latency(), Latency()).why == ""
