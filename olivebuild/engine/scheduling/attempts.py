"""How often a build makes one node."""

from __future__ import annotations

from collections import Counter

from olivebuild.core.errors import StepError
from olivebuild.planner.states import State

MAX_ATTEMPTS = 4


class Attempts:
    """How often each node was made or restored."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, state: State) -> None:
        """Raises StepError when a node does not become right however often it is made."""
        target, name = state.node.target, state.node.name
        self._counts[name] += 1
        if self._counts[name] > MAX_ATTEMPTS:
            what = state.reasons[0].what if state.reasons else "it"
            raise StepError(
                f"{target} was made {MAX_ATTEMPTS} times, and {what} is still not right",
                hint="does another program write there, or does the file system not keep what is "
                "written?",
            )
