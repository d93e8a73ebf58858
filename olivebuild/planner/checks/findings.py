"""What is known at plan time not to go well: inputs that can't be read, and what the models at hand
do not allow. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from olivebuild.planner.checks.finding import PlanProblem
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict
from olivebuild.recipe.graph import Graph


def problems(planner: Planner, plan: Plan) -> list[PlanProblem]:
    """What is known to go wrong with the nodes that would run, inputs first."""
    # What only few plans need, and takes long to import.
    from olivebuild.planner.checks import commands, models

    found = [
        *_faults(planner, plan),
        *commands.problems(planner, plan),
        *models.problems(planner, plan),
    ]
    return [
        problem._replace(stops=_stops(planner.graph, plan, problem)) if problem.fails else problem
        for problem in found
    ]


def _faults(planner: Planner, plan: Plan) -> Iterable[PlanProblem]:
    for name, lookup in plan.lookups.items():
        if e := lookup.fault:
            where = e.where or planner.scan.recipe.where(lookup.node.target)
            yield PlanProblem(lookup.node.target, where, e.fact, e.hint, (name,), fails=True)


def _stops(graph: Graph, plan: Plan, problem: PlanProblem) -> tuple[str, ...]:
    names = {*problem.nodes, *waiting_for(graph, plan, problem.nodes)}
    found = dict.fromkeys(state.node.target for name, state in plan.states.items() if name in names)
    return tuple(target for target in found if target != problem.target)


def waiting_for(graph: Graph, plan: Plan, names: Iterable[str]) -> set[str]:
    """The nodes of the plan that wait for one of these, be it through others."""
    found: set[str] = set()
    left = list(names)
    while left:
        for _, user in graph.users.get(left.pop(), ()):
            state = plan.states.get(user)
            if user not in found and state and state.verdict in (Verdict.WAITING, Verdict.BROKEN):
                found.add(user)
                left.append(user)
    return found
