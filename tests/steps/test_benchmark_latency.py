"""The declaration of latency: what its key holds of fields and environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from olivebuild.steps.measurements.latency import DAY, STEP, LatencyFields


@pytest.mark.parametrize("remeasure", ["never", "always", "30d"])
def test_when_to_measure_again_is_no_part_of_what_was_measured(remeasure: str) -> None:
    fields = LatencyFields(remeasure=remeasure)
    node = STEP.node("b:latency", "b", fields, ())
    assert node.parameters == STEP.node("b:latency", "b", LatencyFields(), ()).parameters
    assert node.max_age == (30 * DAY if remeasure == "30d" else None)


@pytest.mark.parametrize("remeasure", ["0d", "30", "30 days", "daily", "", "1d\n"])
def test_what_is_no_time_is_refused(remeasure: str) -> None:
    with pytest.raises(ValidationError):
        LatencyFields(remeasure=remeasure)


def test_it_runs_alone_and_belongs_to_the_machine() -> None:
    node = STEP.node("b:latency", "b", LatencyFields(), ())
    assert node.exclusive
    assert node.machine_bound
    assert "OMP_NUM_THREADS" in node.keyed
