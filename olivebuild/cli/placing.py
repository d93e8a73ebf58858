"""What of a build runs elsewhere, by the recipe and `--executor`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from olivebuild.api.executor import Executor
from olivebuild.cli.options import BuildOptions
from olivebuild.core import host
from olivebuild.executors.declared import open_declared
from olivebuild.executors.router import Router
from olivebuild.planner.project import Project
from olivebuild.recipe.placement import Placement, place
from olivebuild.ui import plain


def placed(
    project: Project, goals: Iterable[str], options: BuildOptions, executor: Executor
) -> tuple[Executor, bool]:
    """Return an executor that sends elsewhere what is to run there.

    And whether it is one of another package, which runs all of the build.
    """
    if options.executor and options.executor not in project.graph.recipe.executors:
        return executor, True
    return routed(project, goals, executor, options.executor), False


def routed(project: Project, goals: Iterable[str], executor: Executor, asked: str = "") -> Executor:
    """Return an executor that sends elsewhere what the recipe, and `asked`, want there.

    What can't be sent is said, and runs by `executor`.
    """
    graph = project.graph
    placement = place(graph, goals, asked)
    for _, line in placement.kept:
        plain.echo(f"note: {line}", err=True)
    if not placement.routes:
        return executor
    open_site = partial(open_declared, graph.recipe, partial(libraries_of, project, placement))
    return Router(executor, placement.routes, open_site)


def libraries_of(project: Project, placement: Placement, executor: str) -> dict[str, str]:
    """Return the libraries that an executor's steps need, in the versions of lock file or machine.

    Those of neither are left out: keys that need them can't be found here either.
    """
    nodes = [node for node, name in placement.routes.items() if name == executor]
    names = {name for node in nodes for name in project.graph.nodes[node].libraries}
    versions = {name: project.lock.libraries.get(name) or host.installed(name) for name in names}
    return {name: version for name, version in sorted(versions.items()) if version}
