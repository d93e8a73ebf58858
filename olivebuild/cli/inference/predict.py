"""predict: answers to the rows of a file, from a process that loads and runs the model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from olivebuild.cli.inference.subject import DATA, MAX_TOKENS, build_subject, form_of, forms_for
from olivebuild.cli.options import SET, TARGET, open_told, recipe_options
from olivebuild.core.errors import BuildError, InputError
from olivebuild.core.fs.small_files import special
from olivebuild.executors.model_process import Settings, Talker


@click.command()
@TARGET
@recipe_options
@SET
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
    help="Write here instead of to standard output.",
)
@DATA
@MAX_TOKENS
@click.pass_context
def predict(
    ctx: click.Context,
    target: str,
    settings: tuple[str, ...],
    rows: Path,
    out: Path | None,
    data: str | None,
    max_tokens: int,
) -> None:
    """Answer the rows of a file, one JSON line a row, in order.

    The model is built first if it is stale. Steps that this needs, and the model, run on this
    machine. A row is rendered by the data set that the model was
    trained on (or another of the recipe whose columns it has), or has a `prompt` or `messages`. An
    interrupted run with --out resumes where it stopped.

    \b
    olivebuild predict onnx-int4 --in new.jsonl --out answers.jsonl
    """
    if kind := special(rows.stat().st_mode):
        raise InputError(
            f"{rows} is {kind}, not a file",
            where="--in",
            hint="write what it gives into a file: rows are read more than once",
        )
    project = open_told(ctx, settings)
    forms = (
        (form_of(project.graph, data),)
        if data
        else forms_for(project.graph, project.graph.one(target))
    )
    subject = build_subject(project, target)

    def asked(first: int = 0) -> Settings:
        return Settings(
            target=target,
            folder=subject.folder,
            adapter=subject.adapter,
            trust_remote_code=subject.trust_remote_code,
            max_tokens=max_tokens,
            forms=forms,
            # A path that another process can open: /dev/stdin is its own there.
            rows=str(rows.resolve()),
            shown=str(rows),
            first=first,
            template_date=subject.template_date,
            trust_adapter=subject.trust_adapter,
        )

    log = project.workspace.log_file(f"{target}.predict")
    if out is None:
        with Talker(asked(), log) as talker:
            talker.ready()
            for line in lines_of(talker):
                click.echo(line)
        return
    from olivebuild.core import hashing
    from olivebuild.core.fs.locks import try_lock

    identity = hashing.of_json(
        [
            subject.digests,
            hashing.of_file(rows),
            forms,
            max_tokens,
            *([subject.template_date] if subject.template_date else []),
        ]
    )
    lock = try_lock(project.planner.store.lock_file(identity))
    if lock is None:
        raise BuildError(
            f"{out} is being written by another run of this command", hint="wait for it"
        )
    with lock:
        write_lines(asked, log, out, out.with_name(f"{out.name}.{identity[:8]}.part"))


def lines_of(talker: Talker) -> Iterator[str]:
    """Yield the rows with their predictions as JSON."""
    for row, text in talker.rows():
        yield json.dumps(row | {"prediction": text}, ensure_ascii=False)


def write_lines(asked: Callable[[int], Settings], log: Path, out: Path, part: Path) -> None:
    """Write all lines to `part`, and rename it to `out` when the last is there.

    A later run resumes from `part`.
    """
    from olivebuild.api.event import Event
    from olivebuild.ui.live import on_stderr

    first = whole_lines(part)
    with Talker(asked(first), log) as talker, open(part, "ab") as file, on_stderr() as display:
        node: dict[str, object] = {"target": out.name, "node": out.name}
        display(Event("started", node | {"reasons": [], "seconds": None}))
        total, done = talker.ready()["rows"], first
        display(Event("progress", node | {"what": "answering", "done": done, "total": total}))
        try:
            for line in lines_of(talker):
                file.write(line.encode() + b"\n")
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
    os.replace(part, out)
    click.echo(
        f"{total} rows in {out}" + (f", {first} of them from before" if first else ""), err=True
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
