"""help and version: what is asked of a program without dashes, too."""

from __future__ import annotations

import click

from olivebuild import __version__
from olivebuild.cli.completion import items
from olivebuild.cli.options import check_no_target, recipe_options
from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.text import did_you_mean


def group_of(ctx: click.Context) -> click.Group:
    """Return the group that all commands belong to."""
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    return group


@click.command("help")
@click.argument(
    "command",
    required=False,
    shell_complete=lambda ctx, _, word: items(
        dict.fromkeys(group_of(ctx).list_commands(ctx), "command"), word
    ),
)
@recipe_options
@click.pass_context
def help_(ctx: click.Context, command: str | None) -> None:
    """Show the help of olivebuild, or of a command.

    \b
    olivebuild help plan
    """
    check_no_target(ctx, "help")
    root, group = ctx.find_root(), group_of(ctx)
    if command is None:
        click.echo(group.get_help(root))
        return
    verb = group.get_command(root, command)
    if verb is None:
        raise RecipeError(
            f"there is no command {command!r}",
            where=Where("command line"),
            hint=did_you_mean(command, group.list_commands(root)),
        )
    with click.Context(verb, info_name=command, parent=root) as inner:
        click.echo(verb.get_help(inner))


@click.command()
@recipe_options
@click.pass_context
def version(ctx: click.Context) -> None:
    """Print the version.

    \b
    olivebuild version
    """
    check_no_target(ctx, "version")
    click.echo(f"olivebuild, version {__version__}")
