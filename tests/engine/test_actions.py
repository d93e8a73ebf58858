"""What an action tells its worker of the actions that are to come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.engine.actions import make_action
from tests.support.clocks import dated_site


def test_one_that_judges_a_model_tells_of_the_others_that_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = dated_site(tmp_path, monkeypatch)
    judge = "bench:accuracy.base"

    def told() -> list[list[Any]]:
        planner = site.planner()
        plan = planner.plan(["bench"])
        action = make_action(planner, plan, plan.states[judge], Path("."))
        planner.traces.close()
        return [list(consumer) for consumer in action.consumers]

    # The adapter comes first: a process is not kept that long.
    assert told() == []
    site.made("adapter")
    ((kind, fields),) = told()
    assert (kind, fields["adapter"]) == ("benchmark-accuracy", True)
