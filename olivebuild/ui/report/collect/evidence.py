"""Sources of a report: a project, its current plan, traces and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olivebuild.cache.traces import Trace
from olivebuild.engine.history import Entry
from olivebuild.engine.lineage import of_folder
from olivebuild.metrics.records import Metrics, read_metrics
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project


@dataclass(frozen=True)
class Evidence:
    """The current plan, the last trace of each node, and the history."""

    project: Project
    plan: Plan
    entries: list[Entry]

    @property
    def last(self) -> Entry | None:
        """The last build of this folder; after a move the last of any."""
        recipe = self.project.graph.recipe
        return next(reversed(of_folder(self.entries, str(recipe.file.resolve().parent))), None)

    def trace(self, node: str) -> Trace | None:
        """Return the node's trace under its current key, else under the last one built here."""
        state = self.plan.states.get(node)
        if state and state.trace:
            return state.trace
        last = self.project.workspace.last.get(node)
        return self.project.planner.traces.get(last.key) if last else None

    def failed(self, target: str) -> str:
        """Return the rows that a target's last run dropped, if that failed; else ""."""
        return "; ".join(self.project.dropped_rows(self.plan.target(target)[1]))

    def metrics(self, target: str) -> Mapping[str, Any]:
        """Return a target's last metrics as its trace has them; {} without a trace."""
        trace = self.trace(target)
        return trace.metrics if trace else {}

    def benchmark(self, target: str) -> Metrics:
        """Return a benchmark's last metrics; without models where there are none.

        Raises StoreError for what can't be read.
        """
        return read_metrics(self.metrics(target), target)
