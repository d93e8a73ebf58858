"""The report of a build, for those who show and record it."""

from __future__ import annotations

from msgspec import Struct

from olivebuild.core.errors import BuildError
from olivebuild.planner.plan import Plan


class BuildReport(Struct, kw_only=True):
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
    seconds: float = 0.0
    """Wall time."""

    @property
    def fresh(self) -> list[str]:
        """The targets that are fresh and were so before the build."""
        touched = {*self.ran, *self.restored, *self.failed}
        return [t for t in self.plan.fresh if t not in touched] if self.plan else []
