"""The display of a build: it begins when there is something to show."""

from __future__ import annotations

import pytest

from olivebuild.api.event import Event
from olivebuild.ui.display import Showing


def test_nothing_is_shown_of_a_plan_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with Showing() as show:
        show(Event("plan", {"run": ["a"], "restore": [], "seconds": {"a": None}}))
    assert capsys.readouterr() == ("", "")


def test_what_was_held_back_is_shown_first(capsys: pytest.CaptureFixture[str]) -> None:
    note: dict[str, object] = {"target": "a", "node": "a", "text": "something to say"}
    with Showing() as show:
        show(Event("plan", {"run": ["a"], "restore": [], "seconds": {"a": 100.0}}))
        show(Event("note", note))
        show(Event("note", note))
    shown = "".join(capsys.readouterr())
    assert shown.count("something to say") == 2
