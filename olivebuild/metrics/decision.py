"""The decision that gates and diagnostics make together: ship or not.

All that shows a build says it in these words: the terminal, the report, Markdown and JUnit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from olivebuild.metrics.gates import State, summary

Outcome = Literal["ship", "hold", "undecided", "stale", "none"]
WORDS: dict[Outcome, str] = {
    "ship": "Ship",
    "hold": "Do not ship",
    "undecided": "Not decided",
    "stale": "Not up to date",
    "none": "Not decided",
}


def decide(
    states: Collection[State], *, fails: bool = False, problems: int = 0, stale: bool = False
) -> Outcome:
    """Return what the gates' states say together.

    `fails`: a gate ends the build with exit code 3. `problems`: diagnostics that are errors; with
    them figures do not mean what they seem to, so that gates which are met decide nothing. `stale`:
    the figures are those of inputs that have changed since.
    """
    if stale:
        return "stale"
    if not states:
        return "none"
    if fails or "missed" in states:
        return "hold"
    return "undecided" if problems or "undecided" in states else "ship"


def headline(outcome: Outcome, states: Collection[State], problems: int = 0) -> str:
    """Return the decision in words, such as `Do not ship: 2 met, 1 missed`."""
    if not states:
        reason = "no gate says what to ship by"
    elif set(states) == {"met"}:
        reason = f"all {len(states)} gates met" if len(states) > 1 else "the gate is met"
    else:
        reason = summary(states)
    if problems and outcome != "hold":
        but = "but" if set(states) == {"met"} else "and"
        reason += f", {but} {problems} problem{'s' if problems != 1 else ''} with the figures"
    return f"{WORDS[outcome]}: {reason}"
