"""build and watch.

Imports little: the worker starts while the rest of a build is imported (cli/run_build.py).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from olivebuild.cli.location import nearest_recipe
from olivebuild.cli.options import (
    SET,
    TARGETS,
    build_options,
    open_seen,
    recipe_options,
)
from olivebuild.core.errors import BuildError, of_disk
from olivebuild.library.executors import BuildOptions, open_executor

if TYPE_CHECKING:
    from olivebuild.planner.project import Project


def declared_executors(ctx: click.Context) -> tuple[str, ...]:
    """Return the names of the executors that the recipe at hand has."""
    from olivebuild.recipe import file as recipes

    folder, file = nearest_recipe(ctx)
    return tuple(recipes.load(recipes.find(folder, file)).executors)


EVENTS = click.option("--json", "as_json", is_flag=True, help="Print one event a line as JSON.")


@click.command()
@TARGETS
@recipe_options
@build_options
@SET
@EVENTS
@click.option(
    "--decide",
    is_flag=True,
    help="End a benchmark as soon as its gates stand: no table, exit code 0 or 3.",
)
@click.pass_context
def build(
    ctx: click.Context,
    targets: tuple[str, ...],
    options: BuildOptions,
    settings: tuple[str, ...],
    as_json: bool,
    decide: bool,
) -> None:
    """Build targets; without any, the recipe's default.

    \b
    olivebuild build onnx-int4 bench
    olivebuild onnx-int4 --set adapter.training.lr=2e-4
    """
    options = replace(options, decide=decide)
    seen = open_seen(ctx)
    executor = open_executor(options, partial(declared_executors, ctx))
    executor.prepare(() if seen and seen.light else ("olivebuild.api.step",))
    try:
        from olivebuild.cli.run_build import build_and_remember

        build_and_remember(ctx, targets, options, executor, settings, as_json)
    finally:
        executor.cancel()


@click.command()
@TARGETS
@recipe_options
@build_options
@SET
@EVENTS
@click.pass_context
def watch(
    ctx: click.Context,
    targets: tuple[str, ...],
    options: BuildOptions,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Build, and build again whenever an input or the recipe changes, until Ctrl-C.

    \b
    olivebuild watch onnx-int4
    """
    from olivebuild.api.event import Event
    from olivebuild.cli import run_build
    from olivebuild.engine import watch as watching
    from olivebuild.ui import console

    folder, file = nearest_recipe(ctx)

    def build_once(project: Project) -> None:
        try:
            executor = open_executor(options, partial(declared_executors, ctx))
            run_build.build(project, targets, options, executor, as_json)
        except BrokenPipeError:
            raise
        except OSError as e:
            raise of_disk(e) from None

    def show_failure(error: BuildError) -> None:
        console.show_error(error)
        if as_json:
            where = str(error.where or "")
            data = {"fact": error.fact, "where": where, "hint": error.hint}
            click.echo(Event("error", {**data}).to_json())

    def show_change(changed: Path | None) -> None:
        if not as_json:
            console.show_watch(changed, folder)
        elif changed:
            click.echo(Event("changed", {"what": str(changed)}).to_json())
        else:
            click.echo(Event("watching", {}).to_json())

    watching.watch((folder, file), settings, build_once, show_failure, show_change)
