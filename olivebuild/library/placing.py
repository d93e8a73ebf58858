"""What of a build runs elsewhere, by the recipe and `--executor`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from olivebuild.api.executor import Executor
from olivebuild.core import host
from olivebuild.core.errors import Where
from olivebuild.engine.remote.elsewhere import Elsewhere
from olivebuild.executors.declared import open_declared
from olivebuild.executors.local import LocalExecutor
from olivebuild.executors.router import Router
from olivebuild.library.executors import BuildOptions
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project
from olivebuild.recipe.placement import Placement, place


def placed(
    project: Project,
    goals: Iterable[str],
    options: BuildOptions,
    executor: Executor,
    tell: Callable[[str], None],
) -> tuple[Executor, bool]:
    """Return an executor that sends elsewhere what is to run there.

    And whether it is one of another package, which runs all of the build.
    """
    if options.executor and options.executor not in project.graph.recipe.executors:
        return executor, True
    return routed(project, goals, executor, tell, options.executor), False


def routed(
    project: Project,
    goals: Iterable[str],
    executor: Executor,
    tell: Callable[[str], None],
    asked: str = "",
) -> Executor:
    """Return an executor that sends elsewhere what the recipe, and `asked`, want there.

    What can't be sent is told, and runs by `executor`.
    """
    graph = project.graph
    placement = place(graph, goals, asked)
    for _, line in placement.kept:
        tell(line)
    if not placement.routes:
        return executor
    open_site = partial(open_declared, graph.recipe, partial(libraries_of, project, placement))
    return Router(executor, placement.routes, open_site)


def refused(project: Project, plan: Plan, asked: str) -> list[PlanFinding]:
    """Return what a plan would have run elsewhere and can't, as problems of the plan.

    Asks the machines that are to run something, and makes an environment where one is named.
    """
    executor = routed(project, plan.goals, LocalExecutor(), lambda _: None, asked)
    try:
        return [
            PlanFinding(
                node.target,
                error.where if isinstance(error.where, Where) else Where(""),
                error.fact,
                error.hint,
                (node.name,),
                fails=True,
            )
            for node, error in Elsewhere(project.planner, executor).refused(plan)
        ]
    finally:
        executor.cancel()


def libraries_of(project: Project, placement: Placement, executor: str) -> dict[str, str]:
    """Return the libraries that an executor's steps need, in the versions of lock file or machine.

    Those of neither are left out: keys that need them can't be found here either.
    """
    nodes = [node for node, name in placement.routes.items() if name == executor]
    names = {name for node in nodes for name in project.graph.nodes[node].libraries}
    versions = {name: project.lock.libraries.get(name) or host.installed(name) for name in names}
    return {name: version for name, version in sorted(versions.items()) if version}
