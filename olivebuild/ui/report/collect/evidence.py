"""What a report is made from: a project, its plan of now, traces and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olivebuild.cache.traces import Trace
from olivebuild.engine.history import Entry
from olivebuild.metrics.records import Metrics, read_metrics
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project


@dataclass(frozen=True)
class Evidence:
    """The plan as it is now, what each node last made, and the builds before."""

    project: Project
    plan: Plan
    entries: list[Entry]

    def trace(self, node: str) -> Trace | None:
        """What the node made: under its key of now, or, when that was not built yet, under its last
        one.
        """
        state = self.plan.states.get(node)
        if state and state.trace:
            return state.trace
        last = self.project.workspace.last.get(node)
        return self.project.planner.traces.get(last.key) if last else None

    def failed(self, target: str) -> str:
        """What the last run of a target dropped, if it failed and none came after."""
        return "; ".join(self.project.dropped_rows(self.plan.target(target)[1]))

    def metrics(self, target: str) -> Mapping[str, Any]:
        trace = self.trace(target)
        return trace.metrics if trace else {}

    def benchmark(self, target: str) -> Metrics:
        """Return a benchmark's last metrics; without models where there are none.

        Raises StoreError for what can't be read.
        """
        return read_metrics(self.metrics(target), target)
