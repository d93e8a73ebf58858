"""Checks of data files: one that is none of rows by its name."""

from __future__ import annotations

from collections.abc import Iterator

from olivebuild.data.readers import unread
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict


def problems(planner: Planner, plan: Plan) -> Iterator[PlanFinding]:
    """Yield the files of data sets that would be read and can't be.

    Of a folder the reader takes the files that it knows, so only files by themselves are judged.
    """
    recipe = planner.scan.recipe
    for name, state in plan.states.items():
        node = state.node
        if node.kind != "dataset" or state.verdict is not Verdict.STALE:
            continue
        for entry in node.files:
            path = recipe.folder / entry.pattern
            error = unread(path, entry.pattern) if path.is_file() else None
            if error:
                yield PlanFinding(
                    target=node.target,
                    where=recipe.where(node.target, entry.field),
                    fact=f"{entry.pattern}: {error.fact}",
                    hint=error.hint,
                    nodes=(name,),
                    fails=True,
                )
