"""What the verbs share: options, arguments, and opening the recipe that they name."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from olivebuild import snapshot
from olivebuild.core.errors import BuildError

if TYPE_CHECKING:
    from olivebuild.planner.project import Project
    from olivebuild.recipe.graph import Graph
    from olivebuild.snapshot import StatComparison


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """-C and -f, before the command or after it."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.ensure_object(dict)[param.name] = value

    for flags, help_ in (
        (("-C", "--directory"), "Work in DIR."),
        (("-f", "--file"), "Read this recipe instead of olivebuild.yaml."),
    ):
        metavar = "DIR" if flags[0] == "-C" else "FILE"
        function = click.option(
            *flags, metavar=metavar, help=help_, expose_value=False, callback=keep
        )(function)
    return function


class Manner(Struct, frozen=True):
    """How a build goes about it; none of this changes what it makes."""

    jobs: int
    keep_going: bool
    resources: tuple[str, ...]
    log_to: tuple[str, ...] = ()


def manner_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """-j, -k, --resource and --log-to, given to the command as one `manner`."""

    @click.option(
        "-j",
        "--jobs",
        type=click.IntRange(1),
        help="Run up to N steps at once (default 1).",
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
        help="Log trainings too: tensorboard:FOLDER or mlflow:URI.",
    )
    @click.pass_context
    @wraps(function)
    def command(
        ctx: click.Context,
        /,
        jobs: int | None,
        keep_going: bool,
        resources: tuple[str, ...],
        log_to: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        return function(
            manner=Manner(
                jobs or ctx.ensure_object(dict).get("jobs") or 1, keep_going, resources, log_to
            ),
            **rest,
        )

    return command


def targets_argument(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: the recipe's targets."""
    try:
        graph = open_recipe(ctx)
        return [name for name in (*graph.targets, *graph.matrices) if name.startswith(incomplete)]
    except BuildError:
        return []


TARGETS = click.argument("targets", nargs=-1, shell_complete=targets_argument)
TARGET = click.argument("target", shell_complete=targets_argument)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="TARGET.FIELD=VALUE",
    help="Override a field of the recipe for this call.",
)


SEEN_KEY = "olivebuild.seen"
"""Where the context has what was seen before the command line was read."""


def place(ctx: click.Context) -> tuple[Path, str | None]:
    given: dict[str, str] = {}
    for context in reversed([c for c in (ctx, ctx.parent) if c]):
        given |= {k: v for k, v in (context.obj or {}).items() if v is not None}
    return Path(given.get("directory", ".")).absolute(), given.get("file")


def open_recipe(ctx: click.Context) -> Graph:
    from olivebuild.planner.project import open_graph

    return open_graph(*place(ctx))


def open_if_there(ctx: click.Context) -> Project | None:
    """For what is about the cache, and about a recipe where there is one."""
    from olivebuild.recipe.file import FILE_NAME

    folder, file = place(ctx)
    return open_all(ctx) if file or (folder / FILE_NAME).is_file() else None


def open_all(ctx: click.Context, settings: tuple[str, ...] = ()) -> Project:
    from olivebuild.planner.project import open_project

    return open_project(*place(ctx), settings)


def open_seen(ctx: click.Context) -> StatComparison | None:
    """Return the comparison that began before the command line was read; else begin one, which goes
    on while the rest is imported.
    """
    options, (folder, file) = ctx.find_root().obj, place(ctx)
    seen: StatComparison | None = options.get(SEEN_KEY)
    if seen is None and file is None:
        seen = snapshot.open_seen(str(folder / ".olivebuild" / snapshot.SEEN))
        if seen:
            seen.start()
            options[SEEN_KEY] = seen
    return seen


def open_changed(ctx: click.Context, settings: tuple[str, ...], asked: tuple[str, ...]) -> Project:
    """Of what was built before only what has changed since."""
    from olivebuild.planner.project import open_changed

    return open_changed(*place(ctx), settings, asked, ctx.find_root().obj.get(SEEN_KEY))
