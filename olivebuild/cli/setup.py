"""init and schema."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct
from msgspec.structs import replace

from olivebuild.cli.location import recipe_location
from olivebuild.cli.options import recipe_options
from olivebuild.core import text
from olivebuild.core.errors import BuildError, InputError, InvalidValue, Where

if TYPE_CHECKING:
    from olivebuild.api.event import Event
    from olivebuild.data.inspection.choice import Choice, Unclear
    from olivebuild.data.inspection.columns import Column
    from olivebuild.data.inspection.sources import Look
    from olivebuild.formats.source import Source
    from olivebuild.planner.checks.first_model import FirstModel
    from olivebuild.recipe.lockfile import Lockfile

NARROWEST = 24
"""Letters of a cell that is wrapped, at least."""
ROWS = "name a file, a folder or hf:OWNER/NAME"


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    \b
    olivebuild schema > olivebuild.recipe.schema.json
    """
    from olivebuild.recipe.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


class Wishes(Struct, frozen=True, kw_only=True):
    """What the command line says of the rows."""

    inputs: tuple[str, ...]
    answer: str | None
    subset: str | None


@click.command()
@recipe_options
@click.option("--model", help="A Hugging Face folder, hf:ID, or gguf:FILE.")
@click.option(
    "--data",
    help="A jsonl, json, csv, tsv or parquet file, a folder of them, or hf:ID.",
)
@click.option(
    "--input", "inputs", multiple=True, metavar="COLUMN", help="The column that is asked, or some."
)
@click.option("--answer", metavar="COLUMN", help="The column that is learnt.")
@click.option("--subset", metavar="NAME", help="Of a folder or repository with several.")
@click.option("--force", is_flag=True, help="Overwrite a recipe that is there.")
@click.option(
    "--example",
    metavar="NAME",
    help="Copy an example instead: tone (the quick start) or extract.",
)
@click.pass_context
def init(
    ctx: click.Context,
    model: str | None,
    data: str | None,
    inputs: tuple[str, ...],
    answer: str | None,
    subset: str | None,
    force: bool,
    example: str | None,
) -> None:
    """Look at a model and at rows, and write a recipe that builds as it is.

    It prints what it took the columns for. Where that is not clear it asks on a terminal, and
    elsewhere names the options that decide.

    \b
    olivebuild init --model hf:Qwen/Qwen2.5-0.5B-Instruct --data data/rows.jsonl
    olivebuild init --model model --data tickets.csv --input body --answer category
    olivebuild init --example tone -C tone
    """
    if example is not None:
        _copy_example(ctx, example, alone=not (model or data))
        return
    if model is None or data is None:
        missing = " and ".join(
            f"`--{name}`" for name, value in (("model", model), ("data", data)) if value is None
        )
        raise click.UsageError(f"init needs {missing}; or --example tone, to look around", ctx)
    from olivebuild.planner.checks import first_model
    from olivebuild.recipe.lockfile import FILE_NAME, Lockfile
    from olivebuild.recipe.scaffold import files
    from olivebuild.recipe.scaffold.first_rows import notes_of, outlook, seen_of
    from olivebuild.recipe.scaffold.recipe_text import recipe_text

    folder, name = recipe_location(ctx)
    file = files.check_free(folder, name, force=force)
    lock = Lockfile(file.parent / FILE_NAME)
    source, rows = first_model.source_of(model), _source_of_rows(data)
    beginning = _look_at_model(source, folder, lock)
    wishes = Wishes(inputs=inputs, answer=answer, subset=subset)
    wishes, look = _look_at_rows(rows, folder, lock, wishes)
    choice = _choose(data, look, wishes)
    seen = seen_of(data, is_remote=rows.remote, subset=wishes.subset, look=look, choice=choice)
    if choice.is_chat and not beginning.has_chat_template:
        raise InputError(
            f"{model} has no chat template, by which conversations are written",
            where="--model",
            hint="name a model that has one: they are often called -Instruct or -chat",
        )
    recipe = recipe_text(
        seen, model=model, chat=beginning.has_chat_template, context=beginning.context
    )
    notes = [*beginning.notes, *notes_of(seen, beginning.context), *_check(recipe, beginning)]
    for note in dict.fromkeys(notes):
        _say(f"note: {note}")
    _say(outlook(seen))
    written = files.write(file, recipe)
    lock.save()
    _say(f"wrote {', '.join(written)}; next: olivebuild plan")


def _copy_example(ctx: click.Context, name: str, *, alone: bool) -> None:
    """Copy an example to where the recipe would be written."""
    from olivebuild.recipe.scaffold import examples

    if not alone:
        raise click.UsageError("--example has a model and rows of its own", ctx)
    folder, _ = recipe_location(ctx)
    folder.mkdir(parents=True, exist_ok=True)
    written = examples.copy(name, folder)
    place = "" if folder == Path.cwd() else f" -C {folder.name}"
    _say(f"wrote {', '.join(written)}; next: olivebuild{place}")


# -- the model


def _look_at_model(source: Source, folder: Path, lock: Lockfile) -> FirstModel:
    """Return what is known of the model. Raises InputError for what can't be one."""
    from olivebuild.engine.pin import first_look
    from olivebuild.executors.local import LocalExecutor
    from olivebuild.formats.hub_cache import NOT_THERE, is_offline
    from olivebuild.planner.checks import first_model

    if not source.remote:
        return first_model.look_here(source, folder)
    if source.remote_kind != "hub":
        return first_model.by_name(source, "a build fetches it")
    if is_offline():
        return first_model.by_name(source, "HF_HUB_OFFLINE is set")
    try:
        small = first_look(source, "model", lock, LocalExecutor(), _tell)
    except BuildError as e:
        if NOT_THERE in e.fact:
            e.where = Where(first_model.OPTION)
            raise
        return first_model.by_name(source, e.fact)
    return first_model.of_folder(source, small)


def _check(recipe: str, model: FirstModel) -> list[str]:
    """Return notes on what the recipe makes of the model.

    Raises BuildError where it would not be read, or is known to fail.
    """
    from olivebuild.engine.pin import recipe_of
    from olivebuild.planner.checks.first_model import check_use
    from olivebuild.planner.project import open_graph

    with recipe_of(recipe) as folder:
        return check_use(model, open_graph(folder, None))


def _tell(event: Event) -> None:
    if event.name == "note":
        click.echo(text.clean(str(event.data["text"])), err=True)


# -- the rows


def _source_of_rows(data: str) -> Source:
    """Return the source that `--data` names. Raises InputError for what can be none."""
    from olivebuild.formats.source import Source
    from olivebuild.planner.checks.first_model import rows_of_page

    if page := rows_of_page(data):
        raise InputError(
            f"{data} is a page of the hub", where="--data", hint=f"write --data hf:{page}"
        )
    try:
        source = Source.parse(data)
    except InvalidValue as e:
        raise InputError(e.problem.fact, where="--data", hint=e.problem.hint or ROWS) from None
    except ValueError as e:
        raise InputError(str(e), where="--data", hint=ROWS) from None
    if not source.may_be("dataset"):
        raise InputError(f"{data} names a model, not rows", where="--data", hint=ROWS)
    return source


def _look_at_rows(
    source: Source, folder: Path, lock: Lockfile, wishes: Wishes
) -> tuple[Wishes, Look]:
    """Return a look at the rows; of several subsets a person chooses one on a terminal."""
    from olivebuild.data.inspection import sources
    from olivebuild.engine.pin import first_look
    from olivebuild.executors.local import LocalExecutor

    path = folder / source.name
    if source.remote:
        try:
            path = first_look(source, "dataset", lock, LocalExecutor(), _tell)
        except BuildError as e:
            e.where = Where("--data")
            raise
    names = sources.subsets(path) if path.is_dir() and wishes.subset is None else []
    if names and _is_terminal():
        wishes = replace(wishes, subset=_ask("Which subset?", [(name, "") for name in names]))
    if not source.remote:
        return wishes, sources.look(folder, source.name, wishes.subset)
    if path.is_dir():
        return wishes, sources.look_in(path, source.text, wishes.subset)
    return wishes, sources.look(path.parent, path.name, wishes.subset)


def _choose(data: str, look: Look, wishes: Wishes) -> Choice:
    """Return the columns to use, and print what each is taken for.

    Asks on a terminal. Elsewhere raises InputError where more than one choice is right.
    """
    from olivebuild.data.inspection.choice import Unclear, choose
    from olivebuild.data.inspection.columns import describe

    columns = describe(look.rows)
    inputs, answer = wishes.inputs, wishes.answer
    is_shown = False
    while isinstance(chosen := choose(columns, look.rows, inputs, answer), Unclear):
        if not is_shown:
            _show(data, look, [(column, "") for column in columns])
            is_shown = True
        name = _decided(chosen, data)
        inputs, answer = ((name,), answer) if chosen.role == "input" else (inputs, name)
    from olivebuild.recipe.scaffold.recipe_text import roles

    _show(data, look, list(roles(chosen, columns)))
    return chosen


def _decided(unclear: Unclear, data: str) -> str:
    """Return the column that a person chooses. Raises InputError where nobody can be asked."""
    from olivebuild.data.inspection.about import about

    names = [column.name for column in unclear.candidates]
    if _is_terminal():
        listed = [(column.name, about(column)) for column in unclear.candidates]
        return _ask(f"Which column is the {unclear.role}?", listed)
    options = " or ".join(f"--{unclear.role} {_word(name)}" for name in names)
    also = "; several together are one input" if unclear.role == "input" else ""
    raise InputError(
        f"the {unclear.role} may be {', '.join(names[:-1])} or {names[-1]}",
        where=data,
        hint=f"choose: {options}{also}",
    )


def _word(name: str) -> str:
    """Return a column's name as a shell reads it. Letters of any language need no quotes."""
    return name if re.fullmatch(r"[\w.:@%+=/-]+", name) else shlex.quote(name)


def _ask(question: str, names: Sequence[tuple[str, str]]) -> str:
    """Return the name that a person chooses, by its number or itself."""
    click.echo(question)
    _table([(f"{number}", *row) for number, row in enumerate(names, 1)])
    while True:
        said = click.prompt("number or name", type=str).strip()
        for number, (name, _) in enumerate(names, 1):
            if said in (str(number), name):
                return name
        click.echo(f"one of 1 to {len(names)}")


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _show(data: str, look: Look, rows: Sequence[tuple[Column, str]]) -> None:
    """Print each column, what it is taken for, and what it holds."""
    from olivebuild.data.inspection.about import about

    count = f"{'' if look.is_whole else 'more than '}{len(look.rows):,} rows"
    files = f" in {len(look.files)} files" if len(look.files) > 1 else ""
    _say(f"{data}: {count}{files}")
    _table([(column.name, role or "-", about(column)) for column, role in rows])


def _width() -> int:
    """Return the columns that a line may take."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def _say(line: str) -> None:
    """Print a line. On a terminal it is wrapped between words."""
    plain = text.clean(" ".join(line.split()))
    wrapped = textwrap.wrap(
        plain, _width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    click.echo("\n".join(wrapped))


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of cells. On a terminal the last cell is wrapped to its width."""
    rows = [tuple(text.clean(" ".join(cell.split())) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    indent = 2 + sum(widths) + 2 * len(widths)
    room = _width() - indent
    for *cells, last in rows:
        start = "  " + "".join(f"{c:<{w}}  " for c, w in zip(cells, widths, strict=True))
        first, *rest = textwrap.wrap(last, max(NARROWEST, room)) or [""]
        click.echo((start + first).rstrip())
        for line in rest:
            click.echo(" " * indent + line)
