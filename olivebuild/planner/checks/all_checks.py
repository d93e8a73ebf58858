"""Checks at plan time: unreadable inputs, and what the models at hand do not allow.

Nothing runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict
from olivebuild.recipe.graph import Graph


def problems(
    planner: Planner,
    plan: Plan,
    lacks: Callable[[Iterable[str]], list[str]] | None = None,
    elsewhere: Collection[str] = (),
) -> list[PlanFinding]:
    """Return the faults that are known of the nodes that would run, inputs first.

    `lacks` tells which libraries are missing where they would run; None where that is not known.
    `elsewhere` are nodes for which it does not matter what this machine lacks.
    """
    # Few plans need them, and they take long to import.
    from olivebuild.planner.checks import (
        commands,
        data_files,
        fp8,
        machine,
        models,
        providers,
        rounding,
    )

    all_problems = [
        *_faults(planner, plan),
        *(machine.problems(planner, plan, lacks, elsewhere) if lacks else ()),
        *commands.problems(planner, plan),
        *data_files.problems(planner, plan),
        *models.problems(planner, plan),
        *providers.problems(planner, plan, elsewhere),
        *rounding.problems(planner, plan),
        *fp8.problems(planner, plan, elsewhere),
        *machine.space_problems(planner, plan),
    ]
    return [
        problem._replace(stops=_stops(planner.graph, plan, problem)) if problem.fails else problem
        for problem in all_problems
    ]


def _faults(planner: Planner, plan: Plan) -> Iterable[PlanFinding]:
    for name, lookup in plan.lookups.items():
        if e := lookup.fault:
            where = e.where or planner.scan.recipe.where(lookup.node.target)
            yield PlanFinding(lookup.node.target, where, e.fact, e.hint, (name,), fails=True)


def _stops(graph: Graph, plan: Plan, problem: PlanFinding) -> tuple[str, ...]:
    names = {*problem.nodes, *waiting_for(graph, plan, problem.nodes)}
    targets = dict.fromkeys(s.node.target for name, s in plan.states.items() if name in names)
    return tuple(target for target in targets if target != problem.target)


def waiting_for(graph: Graph, plan: Plan, names: Iterable[str]) -> set[str]:
    """Return the nodes of the plan that wait for one of these, directly or not."""
    waiting: set[str] = set()
    left = list(names)
    while left:
        for _, user in graph.users.get(left.pop(), ()):
            state = plan.states.get(user)
            if user not in waiting and state and state.verdict in (Verdict.WAITING, Verdict.BROKEN):
                waiting.add(user)
                left.append(user)
    return waiting
