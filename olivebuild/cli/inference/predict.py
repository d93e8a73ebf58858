"""predict: answers to the rows of a file, from a process that loads and runs the model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivebuild.cli.inference.adapters import ADAPTER, check_adapters
from olivebuild.cli.inference.subject import (
    Asking,
    Subject,
    asking_options,
    form_of,
    forms_for,
    loading,
    open_subject,
)
from olivebuild.cli.options import MODEL, open_told, recipe_options
from olivebuild.core.errors import BuildError, InputError, RecipeError
from olivebuild.core.fs.small_files import special
from olivebuild.executors.model_process import Settings, Talker

if TYPE_CHECKING:
    from olivebuild.planner.project import Project

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""The end of a file's name -> what separates its columns."""
NOT_WRITTEN = (".parquet", ".xlsx", ".xls", ".arrow", ".feather", ".gz", ".zst", ".bz2", ".zip")
"""Ends of names that promise another form than any that is written."""


@click.command()
@MODEL
@recipe_options
@asking_options
@ADAPTER
@click.option(
    "--in",
    "rows",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="jsonl, json, csv or parquet.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here instead of to standard output: FILE.csv, FILE.tsv, else JSON lines.",
)
@click.pass_context
def predict(
    ctx: click.Context,
    target: str,
    options: Asking,
    adapter: str | None,
    rows: Path,
    out: Path | None,
) -> None:
    """Answer the rows of a file, one JSON line a row, in order.

    The model is built first where it is stale, on this machine; at a terminal you are asked. A row
    is rendered by the data set that the model was trained on (or another of the recipe whose
    columns it has), or has a `prompt` or `messages`. Of rows that have the data set's answer, the
    accuracy is told. An interrupted run with --out resumes where it stopped.

    \b
    olivebuild predict onnx-int4 --in new.jsonl --out answers.csv
    """
    if kind := special(rows.stat().st_mode):
        raise InputError(
            f"{rows} is {kind}, not a file",
            where="--in",
            hint="write what it gives into a file: rows are read more than once",
        )
    if out and out.suffix.lower() in NOT_WRITTEN:
        raise RecipeError(
            f"answers are not written as {out.suffix}",
            where="--out",
            hint=f"name {out.stem}.csv, {out.stem}.tsv or {out.stem}.jsonl",
        )
    project = open_told(ctx, options.settings)
    if adapter:
        # It is asked on its base.
        (target,) = check_adapters(project.graph, target, [adapter])
    forms = (
        (form_of(project.graph, options.data),)
        if options.data
        else forms_for(project.graph, project.graph.one(target))
    )
    with open_subject(project, target, options) as subject:
        _answer(project, subject, options, forms, rows, out)


def _answer(
    project: Project,
    subject: Subject,
    options: Asking,
    forms: tuple[dict[str, str], ...],
    rows: Path,
    out: Path | None,
) -> None:
    """Write the answers to a file, or print them."""

    def asked(first: int = 0) -> Settings:
        return Settings(
            target=subject.target,
            folder=subject.folder,
            adapter=subject.adapter,
            trust_remote_code=subject.trust_remote_code,
            max_tokens=options.max_tokens,
            forms=forms,
            # A path that another process can open: /dev/stdin is its own there.
            rows=str(rows.resolve()),
            shown=str(rows),
            first=first,
            template_date=subject.template_date,
            trust_adapter=subject.trust_adapter,
        )

    log = project.workspace.log_file(f"{subject.target}.predict")
    if out is None:
        with Talker(asked(), log) as talker:
            with loading(subject.target):
                ready = talker.ready()
            predictions = []
            for row in answers_of(talker):
                predictions.append(row["prediction"])
                click.echo(json.dumps(row, ensure_ascii=False))
        _tell_accuracy(ready, predictions)
        return
    from olivebuild.core import hashing
    from olivebuild.core.fs.locks import try_lock

    identity = hashing.of_json(
        [
            subject.digests,
            hashing.of_file(rows),
            forms,
            options.max_tokens,
            *([subject.template_date] if subject.template_date else []),
        ]
    )
    if out.exists() and not out.is_file():
        hint = "name a new one; without --out the answers are printed"
        raise BuildError(f"{out} is no file that could be replaced", hint=hint)
    if out.is_symlink():
        out = Path(os.path.realpath(out))
    lock = try_lock(project.planner.store.lock_file(identity))
    if lock is None:
        raise BuildError(
            f"{out} is being written by another run of this command", hint="wait for it"
        )
    with lock:
        write_lines(asked, log, out, out.with_name(f"{out.name}.{identity[:8]}.part"))


def answers_of(talker: Talker) -> Iterator[dict[str, Any]]:
    """Yield the rows with their predictions."""
    for row, text in talker.rows():
        yield row | {"prediction": text}


def write_lines(asked: Callable[[int], Settings], log: Path, out: Path, part: Path) -> None:
    """Write all lines to `part`, and rename it to `out` when the last is there.

    A later run resumes from `part`, which has JSON lines whatever is to become of them.
    """
    from olivebuild.api.event import Event
    from olivebuild.ui.live import on_stderr

    first = whole_lines(part)
    with Talker(asked(first), log) as talker, open(part, "ab") as file, on_stderr() as display:
        node: dict[str, object] = {"target": out.name, "node": out.name}
        display(Event("started", node | {"reasons": [], "seconds": None}))
        display(Event("progress", node | {"what": "loading the model", "done": 0, "total": 0}))
        ready = talker.ready()
        total, done = ready["rows"], first
        display(Event("progress", node | {"what": "answering", "done": done, "total": total}))
        try:
            for row in answers_of(talker):
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                file.flush()
                done += 1
                display(
                    Event("progress", node | {"what": "answering", "done": done, "total": total})
                )
        except KeyboardInterrupt:
            display(Event("stopping", node))
            click.echo(
                f"{done} of {total} rows are kept; the same command goes on from there", err=True
            )
            raise
        os.fsync(file.fileno())
    rows = read_lines(part)
    _finish(part, out, rows)
    _tell_accuracy(ready, [row["prediction"] for row in rows])
    click.echo(
        f"{total} rows in {out}" + (f", {first} of them from before" if first else ""), err=True
    )


def _finish(part: Path, out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Make a whole file of JSON lines the one that was asked for."""
    separator = SEPARATORS.get(out.suffix.lower())
    if separator is None:
        os.replace(part, out)
        return
    from olivebuild.core.fs.files import write_atomically

    write_atomically(out, to_table(rows, separator).encode())
    part.unlink()


def read_lines(file: Path) -> list[dict[str, Any]]:
    with open(file, "rb") as lines:
        return [json.loads(line) for line in lines]


def to_table(rows: Sequence[dict[str, Any]], separator: str) -> str:
    """Return rows as a table with a heading: the columns in the order in which they first stand.

    A value that is no text, number or truth is JSON; one that a row lacks is empty.
    """
    import csv
    import io

    columns = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell(row.get(name)) for name in columns)
    return file.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tell_accuracy(ready: dict[str, Any], predictions: Iterable[str]) -> None:
    """Say on stderr how many of the rows that have an answer got it, with the interval."""
    from olivebuild.metrics.gates import wilson
    from olivebuild.ui.wording import percent

    pairs = [
        (text, wanted)
        for text, wanted in zip(predictions, ready["expected"], strict=False)
        if wanted is not None
    ]
    if not pairs:
        return
    right = sum(text == wanted for text, wanted in pairs)
    low, high = wilson(right / len(pairs), len(pairs))
    click.echo(
        f"accuracy {percent(right / len(pairs))}: {right} of {len(pairs)} answers are those of "
        f"{ready['form'] or 'the rows'}, 95 % interval {percent(low)} to {percent(high)}",
        err=True,
    )


def whole_lines(file: Path) -> int:
    """Return the number of complete lines of a file, and cut off what follows them."""
    if not file.exists():
        return 0
    data = file.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(file, end)
    return data.count(b"\n")
