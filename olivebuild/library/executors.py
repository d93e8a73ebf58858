"""Options of a build that change none of its results, and the executor that they name.

Imports little: the worker starts while the rest of a build is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from olivebuild.core.errors import RecipeError

if TYPE_CHECKING:
    from olivebuild.api.executor import Executor, ExecutorFactory

LOCAL = "local"
"""The executor that is built in: worker processes of this machine."""
MOST = 16
"""Most actions at once where the user has not said: cores and memory end it sooner."""


class BuildOptions(Struct, frozen=True, kw_only=True):
    """Options of a build that change none of its results."""

    jobs: int = 0
    """0 where the user has not said: one step, and beside it parts of benchmarks."""
    keep_going: bool = False
    resources: tuple[str, ...] = ()
    log_to: tuple[str, ...] = ()
    executor: str = ""
    """NAME, or NAME:PLACE of an installed one; "" for what the recipe says of each target."""
    decide: bool = False
    """End benchmarks as soon as their gates stand."""


def open_executor(
    options: BuildOptions, of_recipe: Callable[[], tuple[str, ...]] = tuple
) -> Executor:
    """Return the executor that the options name.

    `of_recipe` returns the names of the recipe's: for one of them it is this machine's, which runs
    what is not sent elsewhere. Raises RecipeError where neither the recipe nor a package has one of
    that name.
    """
    name, _, place = options.executor.partition(":")
    if name == LOCAL and place:
        fact = f"the executor {LOCAL} has no places, but was given {place!r}"
        raise RecipeError(fact, where="--executor", hint=f"write {LOCAL} alone")
    declared = () if options.executor in ("", LOCAL) else of_recipe()
    if options.executor in ("", LOCAL, *declared):
        from olivebuild.executors.local import LocalExecutor

        return LocalExecutor(options.jobs or MOST)
    factory = installed_executor(options.executor, declared)
    return factory(jobs=options.jobs or 1, place=place)


def installed_executor(executor: str, declared: Iterable[str]) -> ExecutorFactory:
    """Return the executor of another package that NAME or NAME:PLACE names.

    `declared` are the names of the recipe's, for the hint. Raises RecipeError where there is none.
    """
    from olivebuild.api import plugins
    from olivebuild.api.executor import EXECUTORS

    factory: ExecutorFactory = plugins.load(
        group=EXECUTORS,
        name=executor.partition(":")[0],
        what="executor",
        builtin=(LOCAL, *declared),
        where="--executor",
    )
    return factory
