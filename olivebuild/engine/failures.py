"""Failures of a build: the nodes that can't be made; each cause is reported once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from olivebuild.api.node import Node
from olivebuild.core.errors import BuildError
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.remote.elsewhere import Elsewhere
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict

if TYPE_CHECKING:
    from olivebuild.planner.checks.plan_finding import PlanFinding

UNFINISHED = (Verdict.STALE, Verdict.WAITING, Verdict.BROKEN)


class Failures:
    """The names of nodes that failed, and of those that wait for these or that these alone need.

    `say` takes the name of an event, its node and its data.
    """

    def __init__(
        self,
        planner: Planner,
        report: BuildReport,
        say: Callable[..., None],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._planner = planner
        self._elsewhere = elsewhere or Elsewhere(planner, None)
        self._report = report
        self._say = say
        self._names: set[str] = set()
        self._told: set[str] = set()
        """The facts that were reported already."""

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def add(self, node: Node, error: BuildError) -> None:
        """Add a node that failed, and report it."""
        error.target = error.target or node.target
        self._report.errors.append(error)
        self._report.failed.append(node.target)
        self._names.add(node.name)
        self._say("failed", node, fact=error.fact, where=str(error.where or ""), hint=error.hint)

    def refuse(self, refused: Iterable[tuple[Node, BuildError]]) -> None:
        """Add nodes that can't be made where they are to be; report each fact once."""
        for node, error in refused:
            if error.fact in self._told:
                self._names.add(node.name)
                self._report.failed.append(node.target)
                self._say("failed", node, fact=error.fact, where=str(error.where), hint=error.hint)
            else:
                self._told.add(error.fact)
                self.add(node, error)

    def check(self, plan: Plan, executor: object = None, unlooked: Collection[str] = ()) -> None:
        """Report problems of inputs and models that are known before anything runs.

        And what an executor lacks that tells. Nodes that only such nodes would read are not made
        either. `unlooked`: targets whose files are looked at later, and fetched anew where they are
        damaged.
        """
        if not any(state.verdict in UNFINISHED for state in plan.states.values()):
            return
        # Not imported where all is fresh.
        from olivebuild.planner.checks.all_checks import problems, waiting_for

        lacks = getattr(executor, "missing", None)
        for problem in problems(self._planner, plan, lacks, self._elsewhere.names(plan)):
            if problem.target in unlooked:
                continue
            nodes = [plan.states[name].node for name in problem.nodes if name not in self._names]
            if problem.fact not in self._told and nodes:
                self._told.add(problem.fact)
                self._tell(problem, nodes)
        self._names |= waiting_for(self._planner.graph, plan, self._names)
        self._add_inputs(plan)

    def _tell(self, problem: PlanFinding, nodes: list[Node]) -> None:
        fact, hint = problem.fact, problem.hint
        if not problem.fails:
            self._say("note", nodes[0], text=f"{fact}: {hint}" if hint else fact)
            return
        self._report.errors.append(problem.error())
        for node in nodes:
            self._names.add(node.name)
            # Several nodes of a target fail as one.
            if node.target not in self._report.failed:
                self._report.failed.append(node.target)
                self._say("failed", node, fact=fact, where=str(problem.where), hint=hint)

    def _add_inputs(self, plan: Plan) -> None:
        """Add the nodes that are read by failed nodes alone, and are no goals."""
        for name in reversed(plan.states):
            users = [
                user for _, user in self._planner.graph.users.get(name, ()) if user in plan.states
            ]
            is_goal = plan.states[name].node.target in plan.goal_set
            if users and not is_goal and self._names.issuperset(users):
                self._names.add(name)
