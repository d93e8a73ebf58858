"""The report of a build, for those who show and record it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from olivebuild.api.event import Event
from olivebuild.api.node import Node
from olivebuild.core.errors import BuildError
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import State, Verdict

if TYPE_CHECKING:
    from olivebuild.metrics.early_decision import Standing


class BuildReport(Struct, dict=True, kw_only=True):
    """Record of a build: targets in the order in which it happened."""

    goals: list[str]
    plan: Plan | None = None
    """The plan as it was in the end; None where the build failed before there was one."""
    ran: list[str] = []
    restored: list[str] = []
    failed: list[str] = []
    errors: list[BuildError] = []
    touched: set[str] = set()
    """The nodes that were made, or put into build/."""
    early: dict[tuple[str, str], Standing] = {}
    """(benchmark, gate) -> what was decided while its rows were judged."""
    stopped: list[str] = []
    """Benchmarks that `--decide` ended before their tables were made."""
    seconds: float = 0.0
    """Wall time."""

    @cached_property
    def _listed(self) -> dict[str, set[str]]:
        return {"ran": set(self.ran), "restored": set(self.restored)}

    def touch(self, node: Node, what: Literal["ran", "restored"]) -> None:
        """Take note that a node ran or was restored."""
        self.touched.add(node.name)
        if node.target not in self._listed[what]:
            self._listed[what].add(node.target)
            (self.ran if what == "ran" else self.restored).append(node.target)

    @property
    def fresh(self) -> list[str]:
        """The targets that are fresh and were so before the build."""
        touched = {*self.ran, *self.restored, *self.failed}
        return [t for t in self.plan.fresh if t not in touched] if self.plan else []


def plan_event(plan: Plan) -> Event:
    """Return the event of a plan: targets to run and to restore, and what nodes cost last time.

    Of those that will run. A node whose key holds not all that it reads is expected to stay as it
    is, while another input than its own changed.
    """
    unfinished = (Verdict.STALE, Verdict.WAITING)
    verdicts = {target: plan.target(target)[0] for target in plan.targets}
    run = [target for target, verdict in verdicts.items() if verdict in unfinished]
    restore = [target for target, verdict in verdicts.items() if verdict is Verdict.CACHED]
    costs = {
        name: state.seconds
        for name, state in plan.states.items()
        if state.verdict in unfinished and not _is_carried(state)
    }
    return Event("plan", {"run": run, "restore": restore, "seconds": costs})


def _is_carried(state: State) -> bool:
    """Return whether a node waits for inputs, and is not expected to run for them."""
    has_result = state.seconds is not None
    waits = state.verdict is Verdict.WAITING
    return waits and has_result and any(not edge.keyed for edge in state.node.edges)
