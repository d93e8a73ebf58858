"""import and run: recipes from other tools' configurations.

Neither runs anything that a configuration names, or grants it trust.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivebuild.cli.location import recipe_location
from olivebuild.cli.options import (
    JSON,
    SET,
    TARGETS,
    build_options,
    check_no_target,
    recipe_options,
)
from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.text import clean
from olivebuild.library.executors import BuildOptions, open_executor

if TYPE_CHECKING:
    from olivebuild.recipe.importers.olive.importer import Import
    from olivebuild.recipe.importers.report import Line

STYLES: dict[str, dict[str, Any]] = {
    "head": {"bold": True},
    "warn": {"fg": "yellow"},
    "dim": {"fg": "bright_black"},
}
VERSION = click.option(
    "--olive-version",
    metavar="VERSION",
    help="The release of Olive that the file was for, such as 0.6.2, whatever its words tell.",
)


def _named(ctx: click.Context, command: str, config: Path | None) -> Path:
    """Return the workflow that a command names.

    Raises RecipeError where it names none, or the recipe at hand has a target of its name.
    """
    check_no_target(ctx, command)
    if config is None:
        option = "" if command == "import" else "--config "
        raise RecipeError(
            f"{command} needs a workflow of Olive",
            where=Where("command line"),
            hint=f"olivebuild {command} {option}olive-config.json",
        )
    return config


@click.command("import")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@recipe_options
@click.option("-o", "out", type=click.Path(path_type=Path), metavar="DIR", help="Write it there.")
@VERSION
@click.option(
    "--better",
    is_flag=True,
    help="Write the recipe that we would recommend, and show what it does differently.",
)
@click.option("--force", is_flag=True, help="Overwrite a recipe that is there.")
@click.option(
    "--trust-index",
    is_flag=True,
    help="Take the package indexes of a conda file over into environment.yaml.",
)
@JSON
@click.pass_context
def import_(
    ctx: click.Context,
    config: Path | None,
    out: Path | None,
    olive_version: str | None,
    better: bool,
    force: bool,
    trust_index: bool,
    as_json: bool,
) -> None:
    """Write a recipe from a workflow of Olive, and tell what became of each of its values.

    \b
    olivebuild import olive-config.json
    olivebuild import olive-config.json -o tone --better
    """
    from olivebuild.recipe.file import FILE_NAME
    from olivebuild.recipe.importers import report
    from olivebuild.recipe.importers.olive.better import sides
    from olivebuild.recipe.importers.olive.importer import import_workflow

    config = _named(ctx, "import", config)
    here, name = recipe_location(ctx)
    folder = (here / out).absolute() if out else here
    done, literal = (
        import_workflow(
            here / config,
            out=folder,
            shown=str(config),
            version=olive_version,
            better=recommended,
            trust_index=trust_index,
        )
        for recommended in (better, False)
    )
    recipe = folder / (name or FILE_NAME)
    written = {} if done.faults else _write(done, recipe, force=force)
    differences = list(sides(literal.recipe, done.recipe)) if better and not done.faults else []
    if as_json:
        answer = report.to_json(done, written)
        if better:
            answer["better"] = [asdict(side) for side in differences]
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        for style, text in report.to_lines(done):
            _show(style, text)
        for style, text in report.better_lines(differences) if better and written else ():
            _show(style, text)
    if done.faults:
        raise done.error()
    if not as_json:
        where = "" if folder == here else f" -C {out}"
        _show("", f"wrote {', '.join(written.values())}; next: olivebuild{where} plan")


def _show(style: str, text: str) -> None:
    """Print a line; styles reach terminals alone."""
    click.echo(click.style(clean(text), **STYLES.get(style, {})))


def _write(done: Import, recipe: Path, *, force: bool) -> dict[str, str]:
    """Write a recipe, and return what was written. Raises RecipeError."""
    from olivebuild.core.fs.files import write_atomically

    _check(done, recipe)
    files = {"recipe": (recipe, done.recipe)} | {
        environment.name: (recipe.parent / environment.name, environment.conda.environment)
        for environment in done.environments
    }
    for file, _ in files.values():
        if file.exists() and not force:
            raise RecipeError(
                f"there is a file {file.name} already",
                where=Where(file.name),
                hint="--force overwrites it; -o DIR names another folder",
            )
    recipe.parent.mkdir(parents=True, exist_ok=True)
    for file, text in files.values():
        write_atomically(file, text.encode())
    return {name: str(file) for name, (file, _) in files.items()}


def _check(done: Import, recipe: Path) -> None:
    """Raise RecipeError where the recipe that an import made can't be read."""
    from olivebuild.recipe.file import Recipe
    from olivebuild.recipe.graph import build_graph

    try:
        build_graph(Recipe(recipe, done.recipe))
    except RecipeError as e:
        path, where = _origin(done, e.where.line if e.where else 0)
        prefix = f"{path}: " if path else "what it says together makes no recipe: "
        raise RecipeError(f"{prefix}{e.fact}", where=where, hint=e.hint) from None


def _origin(done: Import, line: int) -> tuple[str, Where]:
    """Return the JSON path and the place that a line of the recipe comes from, as it says itself.

    "" and the whole file for a line that says nothing.
    """
    lines = done.recipe.splitlines()
    for text in lines[max(line - 2, 0) : line][::-1]:
        if match := re.search(r"# (\S+), line (\d+)", text):
            number = int(match[2])
            return match[1], Where(done.document.file, number, 0, done.document.lines[number - 1])
    return "", Where(done.document.file)


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The workflow of Olive.",
)
@TARGETS
@recipe_options
@VERSION
@build_options
@SET
@click.option("--json", "as_json", is_flag=True, help="Print one event a line as JSON.")
@click.pass_context
def run(
    ctx: click.Context,
    config: Path | None,
    targets: tuple[str, ...],
    olive_version: str | None,
    options: BuildOptions,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Build what a workflow of Olive describes, into build/NAME/ beside it.

    NAME is the file's name. Its recipe lies in .olivebuild/imported/; `olivebuild import` writes
    one to go on with.

    \b
    olivebuild run --config olive-config.json
    """
    from olivebuild.recipe.file import IMPORTED
    from olivebuild.recipe.importers import report
    from olivebuild.recipe.importers.olive.draft import word
    from olivebuild.recipe.importers.olive.importer import import_workflow

    config = _named(ctx, "run", config)
    here, _ = recipe_location(ctx)
    folder = (here / config).absolute().parent
    name = Path(*IMPORTED, f"{word(config.stem)}.yaml")
    done = import_workflow(here / config, out=folder, shown=str(config), version=olive_version)
    if done.faults:
        for style, text in report.to_lines(done):
            click.echo(click.style(clean(text), **STYLES.get(style, {})), err=True)
        raise done.error()
    _write(done, folder / name, force=True)
    for style, text in _told(done, config, name):
        click.echo(click.style(clean(text), **STYLES.get(style, {})), err=True)
    ctx.ensure_object(dict).update(directory=str(folder), file=str(name))
    try:
        _build(ctx, targets, options, settings, as_json)
    except RecipeError as e:
        # The recipe is written anew each time: the workflow is where its fault can be mended.
        path, where = _origin(done, e.where.line if e.where and e.where.file == name.name else 0)
        if not path:
            raise
        hint = e.hint.replace("write its value there", "write its value into the workflow")
        raise RecipeError(f"{path}: {e.fact}", where=where, hint=hint) from None


def _told(done: Import, config: Path, name: Path) -> list[Line]:
    """Return what `run` tells of an import before it builds."""
    from olivebuild.recipe.importers.olive.ledger import NAMES, Fate
    from olivebuild.recipe.importers.positions import shown

    counts = ", ".join(
        f"{sum(e.fate is fate for e in done.entries)} {NAMES[fate]}" for fate in Fate
    )
    lines = [("", f"{config} -> {name}, read as Olive {done.generation.name}: {counts}")]
    for entry in done.entries:
        if entry.fate in (Fate.MEANT_ELSE, Fate.REFUSED):
            text = f"  line {entry.line:<4} {shown(entry.path)}: {entry.text}"
            lines.append(("warn", text))
    return lines


def _build(
    ctx: click.Context,
    targets: tuple[str, ...],
    options: BuildOptions,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Build targets of the recipe that was just written."""
    from olivebuild.cli.build import declared_executors

    executor = open_executor(options, lambda: declared_executors(ctx))
    executor.prepare(("olivebuild.api.step",))
    try:
        from olivebuild.cli.run_build import build_and_remember

        build_and_remember(ctx, targets, options, executor, settings, as_json, keep_answer=False)
    finally:
        executor.cancel()
