"""The writer of snapshots: which builds are answered from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from olivebuild.engine import noop
from olivebuild.planner.project import Project
from tests.support.sites import Site


def test_a_build_with_a_result_whose_age_counts_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Site(tmp_path).plan("a")
    asked: list[Any] = []

    def answer_stats(*given: Any) -> dict[str, None]:
        asked.append(given)
        return {}

    monkeypatch.setattr(noop, "answer_stats", answer_stats)
    monkeypatch.setattr(noop, "all_past", lambda *given: False)

    class Opened:
        planner = None

    project = cast("Project", Opened())
    noop.save(project, plan, None, 0, "out", "", 0)
    assert len(asked) == 1
    state = plan.states["a"]
    states = {"a": structs.replace(state, node=structs.replace(state.node, max_age=60.0))}
    noop.save(project, structs.replace(plan, states=states), None, 0, "out", "", 0)
    assert len(asked) == 1
