"""Where a command finds its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from olivebuild.cli.location import recipe_location
from olivebuild.cli.options import (
    open_if_there,
    recipe_options,
)
from tests.support.sites import CHAIN


@click.group()
@recipe_options
def group() -> None:
    pass


@group.command()
@recipe_options
@click.pass_context
def where(ctx: click.Context) -> None:
    click.echo(recipe_location(ctx))


@pytest.mark.parametrize(
    ("words", "folder", "file"),
    [
        (["where"], ".", None),
        (["-C", "a", "where"], "a", None),
        (["where", "-C", "a", "-f", "other.yaml"], "a", "other.yaml"),
        # What stands nearer to the command counts.
        (["-C", "a", "where", "-C", "b"], "b", None),
    ],
)
def test_the_folder_may_stand_before_the_command_or_after(
    words: list[str], folder: str, file: str | None
) -> None:
    done = CliRunner().invoke(group, words)
    assert done.output.strip() == str((Path(folder).absolute(), file))


def context_in(folder: Path, command: Any = where) -> click.Context:
    context = click.Context(command)
    context.obj = {"directory": str(folder)}
    return context


def test_without_a_recipe_there_is_no_project(tmp_path: Path) -> None:
    assert open_if_there(context_in(tmp_path)) is None
    (tmp_path / "olivebuild.yaml").write_text(CHAIN)
    project = open_if_there(context_in(tmp_path))
    assert project
    assert list(project.graph.targets) == ["a", "b", "c"]
