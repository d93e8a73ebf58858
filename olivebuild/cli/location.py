"""Where a command finds its recipe: the folder of -C, the current one, or the nearest above."""

from __future__ import annotations

import os
from pathlib import Path

import click

ABOVE_KEY = "recipe above"
"""Key in the context's object of the folder above the current one whose recipe is meant."""
TOLD_KEY = "recipe told"
"""Key in the context's object of whether that recipe was named to the user."""


def recipe_location(ctx: click.Context) -> tuple[Path, str | None]:
    """Return the folder of -C, the current one by default, and the file of -f, None by default.

    `nearest_recipe` is for commands that read a recipe, and this for those that write one.
    """
    options: dict[str, str] = {}
    for context in (ctx.parent, ctx):
        if context:
            options |= {k: v for k, v in (context.obj or {}).items() if v is not None}
    return Path(options.get("directory", ".")).absolute(), options.get("file")


def nearest_recipe(ctx: click.Context, *, tells: bool = True) -> tuple[Path, str | None]:
    """Return the folder and the file of the recipe that a command reads.

    They are those of -C and -f. Without either, the folder is the nearest with a recipe, from the
    current one upwards; one from above is named on standard error, once. Raises RecipeError for a
    recipe above that another user owns.
    """
    folder, file = recipe_location(ctx)
    above = _recipe_above(ctx)
    if above is None:
        return folder, file
    options = ctx.find_root().ensure_object(dict)
    if tells and not options.get(TOLD_KEY):
        from olivebuild.recipe.file import FILE_NAME

        click.echo(f"note: the recipe is {os.path.relpath(above / FILE_NAME, folder)}", err=True)
        options[TOLD_KEY] = True
    return above, file


def _recipe_above(ctx: click.Context) -> Path | None:
    """Return the folder above the current one whose recipe is meant, if one is.

    Raises RecipeError.
    """
    from olivebuild.recipe.file import FILE_NAME

    folder, file = recipe_location(ctx)
    is_named = any(c and (c.obj or {}).get("directory") is not None for c in (ctx.parent, ctx))
    if file or is_named or os.path.isfile(folder / FILE_NAME):
        return None
    options = ctx.find_root().ensure_object(dict)
    if ABOVE_KEY not in options:
        from olivebuild.core.fs.nearest import nearest

        options[ABOVE_KEY] = nearest(folder, FILE_NAME, ".olivebuild")
    above: Path | None = options[ABOVE_KEY]
    return above
