"""Pinning remote sources: who is asked, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.event import Event
from olivebuild.api.executor import Requirements
from olivebuild.api.result import Result
from olivebuild.core.errors import BuildError, StepError
from olivebuild.engine.pin import look, pin_all
from tests.support.sites import Site

RECIPE = """\
targets:
  base: {kind: model, source: "hf:own/tiny"}
  other: {kind: model, source: "hf:own/gone"}
  last: {kind: model, source: "hf:own/gone-too"}
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Answering:
    """An executor that knows one repository."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, str, str]] = []

    def prepare(self, modules: Sequence[str]) -> None:
        """Nothing takes long here."""

    def can_start(self, action: Requirements) -> bool:
        return True

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        self._action = action
        self.tasks.append((action.target, action.task, action.pin))

    def wait(self, seconds: float) -> Message | Outcome | None:
        if self._action.target != "base":
            return Outcome(self._action.node, 0.1, error=StepError("no such repository", hint="?"))
        provenance: dict[str, object] = {"pin": COMMIT, "folder": self._action.out}
        return Outcome(self._action.node, 0.1, result=Result(provenance=provenance))

    def cancel(self) -> None:
        pass


def test_each_source_that_has_no_pin_is_asked_once(tmp_path: Path) -> None:
    site, events = Site(tmp_path, RECIPE), list[Event]()
    planner, executor = site.planner(), Answering()
    goals = ["base", "other", "last"]
    failed = pin_all(planner, executor, goals, events.append)
    assert executor.tasks == [(target, "pin", "") for target in goals]
    assert events[0].data["text"] == "pinning hf:own/tiny"
    assert [node.target for node, _ in failed] == goals[1:]
    assert COMMIT in (site.folder / "olivebuild.lock").read_text()
    # What is pinned is not asked again, and then its small files can be looked at.
    again = site.planner()
    assert pin_all(again, executor, ["base"], events.append) == []
    assert len(executor.tasks) == len(goals)
    look(again, executor, again.graph.nodes["base"], events.append)
    assert executor.tasks[-1] == ("base", "look", COMMIT)
    with pytest.raises(BuildError, match="no such repository"):
        look(again, executor, again.graph.nodes["other"], events.append)
    assert not any(path.is_dir() for path in (site.cache / "tmp").glob("*"))
