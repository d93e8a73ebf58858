"""Options and arguments that verbs share, and functions that open the recipe that these name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from olivebuild import snapshot
from olivebuild.cli.completion import complete_models, complete_paths, complete_targets
from olivebuild.cli.location import nearest_recipe
from olivebuild.core.errors import RecipeError
from olivebuild.library.executors import BuildOptions

if TYPE_CHECKING:
    from olivebuild.planner.project import Project
    from olivebuild.recipe.graph import Graph
    from olivebuild.snapshot import StatComparison


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add -C and -f to a command; both may stand before it or after it."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            # A shell that completes hands on what was typed.
            typed = os.path.expanduser(value) if ctx.resilient_parsing else value
            ctx.ensure_object(dict)[param.name] = typed

    for flags, help_ in (
        (("-C", "--directory"), "Work in DIR."),
        (("-f", "--file"), "Read this recipe instead of olivebuild.yaml."),
    ):
        is_folder = flags[0] == "-C"
        function = click.option(
            *flags,
            metavar="DIR" if is_folder else "FILE",
            help=help_,
            expose_value=False,
            callback=keep,
            shell_complete=complete_paths("dir" if is_folder else "file"),
        )(function)
    return function


EXECUTOR = click.option(
    "--executor",
    default="",
    metavar="NAME[:PLACE]",
    help="Run what computes for long by an executor of the recipe, or all by an installed one. "
    "local: all on this machine.",
)


def build_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a build to a command, which gets them as `options`."""

    @click.option(
        "-j",
        "--jobs",
        type=click.IntRange(1),
        help="Run up to N steps at once (default: one, and parts of benchmarks beside it).",
        metavar="N",
    )
    @click.option(
        "-k",
        "--keep-going",
        is_flag=True,
        help="After a failure, go on with what does not need the failed target.",
    )
    @click.option(
        "--resource",
        "resources",
        multiple=True,
        metavar="NAME=AMOUNT",
        help="How much of a resource there is: gpu=1, memory=8GB.",
    )
    @click.option(
        "--log-to",
        multiple=True,
        metavar="KIND:PLACE",
        help="Log trainings too: tensorboard:FOLDER, mlflow:URI, or an installed tracker.",
    )
    @EXECUTOR
    @click.pass_context
    @wraps(function)
    def command(
        ctx: click.Context,
        /,
        jobs: int | None,
        keep_going: bool,
        resources: tuple[str, ...],
        log_to: tuple[str, ...],
        executor: str,
        **rest: Any,
    ) -> Any:
        options = BuildOptions(
            jobs=jobs or ctx.ensure_object(dict).get("jobs") or 0,
            keep_going=keep_going,
            resources=resources,
            log_to=log_to,
            executor=executor,
        )
        return function(options=options, **rest)

    return command


TARGETS = click.argument("targets", nargs=-1, shell_complete=complete_targets)
TARGET = click.argument("target", shell_complete=complete_targets)
MODEL = click.argument("target", shell_complete=complete_models)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="TARGET.FIELD=VALUE",
    help="Override a field of the recipe for this call.",
)


SEEN_KEY = "olivebuild.seen"
"""Key in the context's object of the StatComparison that began before parsing."""


def check_no_target(ctx: click.Context, name: str) -> None:
    """Raise RecipeError where the recipe at hand has a target of a command's name.

    Its name alone built it before there was the command.
    """
    from olivebuild.core.fs.small_files import read_text
    from olivebuild.recipe import document
    from olivebuild.recipe.file import FILE_NAME

    try:
        folder, file = nearest_recipe(ctx, tells=False)
        recipe = document.parse(read_text(folder / (file or FILE_NAME)), file or FILE_NAME)
    except (OSError, ValueError, RecipeError):
        # Without a recipe that can be read there is no target.
        return
    targets = recipe.value.get("targets") if isinstance(recipe.value, dict) else None
    if isinstance(targets, dict) and name in targets:
        raise RecipeError(
            f"{name} is a target of this recipe and the name of a command",
            where=recipe.where(("targets", name)),
            hint=f"`olivebuild build {name}` builds the target; rename it to use the command here",
        )


def open_recipe(ctx: click.Context) -> Graph:
    """Return the graph of the recipe that -C and -f name."""
    from olivebuild.planner.project import open_graph

    return open_graph(*nearest_recipe(ctx))


def open_if_there(ctx: click.Context) -> Project | None:
    """Return the project, or None in a folder without a recipe: for verbs about the cache."""
    from olivebuild.recipe.file import FILE_NAME

    folder, file = nearest_recipe(ctx)
    return open_all(ctx) if file or (folder / FILE_NAME).is_file() else None


def open_all(ctx: click.Context, settings: tuple[str, ...] = ()) -> Project:
    """Return the project with its whole graph."""
    from olivebuild.planner.project import open_project

    return open_project(*nearest_recipe(ctx), settings)


def open_told(ctx: click.Context, settings: tuple[str, ...]) -> Project:
    """Return the project with its whole graph, and say what overrides left out of the recipe."""
    project = open_all(ctx, settings)
    tell_left_out(project)
    return project


def tell_left_out(project: Project) -> None:
    """Say on standard error what was left out of the recipe for the overrides of this call."""
    from olivebuild.ui import plain

    for note in project.graph.recipe.notes:
        plain.echo(f"note: {note}", err=True)


def open_seen(ctx: click.Context) -> StatComparison | None:
    """Return the comparison with the disk that began before the command line was parsed.

    Without one, start one here, which runs while the rest is imported.
    """
    options, (folder, file) = ctx.find_root().obj, nearest_recipe(ctx)
    seen: StatComparison | None = options.get(SEEN_KEY)
    if seen is None and file is None:
        seen = snapshot.open_seen(str(folder / ".olivebuild" / snapshot.SEEN))
        if seen:
            seen.start()
            options[SEEN_KEY] = seen
    return seen


def open_changed(
    ctx: click.Context, settings: tuple[str, ...], targets: tuple[str, ...]
) -> Project:
    """Return the project with only the nodes that changed since the last build, where possible."""
    from olivebuild.planner.project import open_changed

    seen = ctx.find_root().obj.get(SEEN_KEY)
    return open_changed(*nearest_recipe(ctx), settings, targets, seen)
