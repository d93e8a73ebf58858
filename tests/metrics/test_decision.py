"""The decision: what gates and diagnostics say together, in words."""

from __future__ import annotations

import pytest

from olivebuild.metrics.decision import Outcome, decide, headline
from olivebuild.metrics.gates import State

MET: list[State] = ["met", "met"]


@pytest.mark.parametrize(
    ("states", "more", "outcome", "words"),
    [
        (MET, {}, "ship", "Ship: all 2 gates met"),
        (["met"], {}, "ship", "Ship: the gate is met"),
        (["met", "missed"], {}, "hold", "Do not ship: 1 met, 1 missed"),
        (["met", "undecided"], {}, "undecided", "Not decided: 1 met, 1 not decided"),
        # `strict: true`
        (["met", "undecided"], {"fails": True}, "hold", "Do not ship: 1 met, 1 not decided"),
        (
            MET,
            {"problems": 1},
            "undecided",
            "Not decided: all 2 gates met, but 1 problem with the figures",
        ),
        (
            ["met", "undecided"],
            {"problems": 2},
            "undecided",
            "Not decided: 1 met, 1 not decided, and 2 problems with the figures",
        ),
        (["missed"], {"problems": 2}, "hold", "Do not ship: 1 missed"),
        (MET, {"stale": True}, "stale", "Not up to date: all 2 gates met"),
        ([], {}, "none", "Not decided: no gate says what to ship by"),
    ],
)
def test_what_the_gates_say_together(
    states: list[State], more: dict[str, int], outcome: Outcome, words: str
) -> None:
    fails, stale = bool(more.get("fails")), bool(more.get("stale"))
    problems = more.get("problems", 0)
    assert decide(states, fails=fails, problems=problems, stale=stale) == outcome
    assert headline(outcome, states, problems) == words
