"""What the verbs share: options, arguments, and opening the recipe that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivebuild.errors import BuildError

if TYPE_CHECKING:
    from olivebuild.graph import Graph
    from olivebuild.project import Project


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """-C and -f, before the command or after it."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.ensure_object(dict)[param.name] = value

    for flags, help_ in ((("-C", "--directory"), "Work in DIR."), (("-f", "--file"), "Read this recipe instead of olivebuild.yaml.")):
        metavar = "DIR" if flags[0] == "-C" else "FILE"
        function = click.option(*flags, metavar=metavar, help=help_, expose_value=False, callback=keep)(function)
    return function


def targets_argument(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: the recipe's targets."""
    try:
        return [name for name in open_recipe(ctx).recipe.targets if name.startswith(incomplete)]
    except BuildError:
        return []


TARGETS = click.argument("targets", nargs=-1, shell_complete=targets_argument)
TARGET = click.argument("target", shell_complete=targets_argument)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SET = click.option("--set", "settings", multiple=True, metavar="TARGET.FIELD=VALUE", help="Override a field of the recipe for this call.")


def place(ctx: click.Context) -> tuple[Path, str | None]:
    given: dict[str, str] = {}
    for context in reversed([c for c in (ctx, ctx.parent) if c]):
        given |= {k: v for k, v in (context.obj or {}).items() if v is not None}
    return Path(given.get("directory", ".")).absolute(), given.get("file")


def open_recipe(ctx: click.Context) -> Graph:
    from olivebuild.project import open_graph

    return open_graph(*place(ctx))


def open_if_there(ctx: click.Context) -> Project | None:
    """For what is about the cache, and about a recipe where there is one."""
    from olivebuild.recipe import FILE_NAME

    folder, file = place(ctx)
    return open_all(ctx) if file or (folder / FILE_NAME).is_file() else None


def open_all(ctx: click.Context, settings: tuple[str, ...] = ()) -> Project:
    from olivebuild.project import open_project

    return open_project(*place(ctx), settings)
