"""chat and predict.

Both build the model first; a process of its own loads and runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivebuild.cli.options import SET, TARGET, open_all, recipe_options
from olivebuild.core.errors import BuildError, InputError, RecipeError
from olivebuild.core.fs import portable_names
from olivebuild.core.fs.small_files import special
from olivebuild.executors.model_process import Refused, Settings, Talker

if TYPE_CHECKING:
    from olivebuild.planner.plan import Plan
    from olivebuild.planner.project import Project
    from olivebuild.recipe.graph import Graph

SUBJECTS = ("model", "merged", "adapter", "onnx", "choice")
DATA = click.option(
    "--data", metavar="DATASET", help="Put what is asked into this data set's template."
)


@dataclass(frozen=True)
class Subject:
    """A built model: its folder, and that of an adapter on top of it.

    `digests` are those of both folders.
    """

    target: str
    folder: str
    adapter: str
    trust_remote_code: bool
    digests: tuple[str, ...]
    template_date: str = ""
    trust_adapter: bool = False


MAX_TOKENS = click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Cut an answer after N tokens.",
    metavar="N",
)


@click.command()
@TARGET
@recipe_options
@SET
@DATA
@click.option("--system", metavar="TEXT", help="Begin with this system message.")
@MAX_TOKENS
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token.",
)
@click.pass_context
def chat(
    ctx: click.Context,
    target: str,
    settings: tuple[str, ...],
    data: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float,
) -> None:
    """Talk to a model, built first if it is stale: base, adapter, merged or ONNX.

    Each line is a turn, in the model's own chat template; /new begins anew, Ctrl-D ends. Ctrl-C
    stops an answer; twice, it ends.

    \b
    olivebuild chat onnx-int4
    echo "My umbrella just turned inside out." | olivebuild chat merged --data tone
    """
    # Ctrl-C stops an answer, but who is told to end must end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    project = open_all(ctx, settings)
    forms = (form_of(project.graph, data, single=True),) if data else ()
    subject = build_subject(project, target)
    date = subject.template_date
    asked = Settings(
        target,
        subject.folder,
        subject.adapter,
        subject.trust_remote_code,
        max_tokens,
        forms,
        temperature,
        template_date=date,
        trust_adapter=subject.trust_adapter,
    )
    with Talker(asked, project.workspace.log_file(f"{target}.chat")) as talker:
        talker.ready()
        ctx.exit(converse(talker, system, bool(forms)))


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

    The model is built first if it is stale. A row is rendered by the data set that the model was
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
    project = open_all(ctx, settings)
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


def build_subject(project: Project, target: str) -> Subject:
    """Build the target that a verb names if it is stale, and return it.

    Raises RecipeError for a target that is no model, and the error of a step that fails.
    """
    graph = project.graph
    graph.one(target)
    kind, fields = graph.targets[target].kind, graph.recipe.targets[target].fields
    if kind not in SUBJECTS:
        models = [name for name, t in graph.targets.items() if t.kind in SUBJECTS]
        hint = (
            f"models of this recipe are {', '.join(models)}"
            if models
            else "the recipe has no model"
        )
        raise RecipeError(
            f"{target} is of kind {kind}, which can't be asked",
            where=graph.recipe.where(target),
            hint=hint,
        )
    base = target
    if kind == "adapter":
        model = getattr(fields, "model", None)
        if model is None:
            hint = "name its `model`, or a merge of the two"
            raise RecipeError(
                f"the base of {target} is not known", where=graph.recipe.where(target), hint=hint
            )
        base = model.target
    plan = _build(project, list(dict.fromkeys([base, target])))
    folders = [str(plan.states[name].folder) for name in (base, target)]
    digests = tuple((plan.states[name].outputs or {}).get("", "") for name in (base, target))
    return Subject(
        target,
        folders[0],
        folders[1] if kind == "adapter" else "",
        graph.trusts_remote_code(graph.nodes[base]),
        digests,
        project.planner.dating.date_of(target, plan.lookups),
        graph.trusts_remote_code(graph.nodes[target]),
    )


def _build(project: Project, goals: list[str]) -> Plan:
    """Build goals, with the build's lines on stderr: stdout is for answers."""
    from olivebuild.engine.builder import Builder
    from olivebuild.engine.recorder import Recorder, record
    from olivebuild.executors.local import LocalExecutor
    from olivebuild.ui.live import on_stderr

    with on_stderr() as display:
        recorder = Recorder(display)
        report = Builder(project.planner, LocalExecutor(), recorder).run(goals)
    record(project, recorder, report, [])
    if report.errors:
        raise report.errors[0]
    assert report.plan
    return report.plan


def forms_for(graph: Graph, target: str) -> tuple[dict[str, str], ...]:
    """Return the templates of the data sets that the target depends on, then of the others."""
    below = [
        name for name in graph.targets_below([target]) if graph.targets[name].kind == "dataset"
    ]
    others = [
        name for name, t in graph.targets.items() if t.kind == "dataset" and name not in below
    ]
    return tuple(form for name in (*below, *others) if (form := _form(graph, name)))


def form_of(graph: Graph, name: str, *, single: bool = False) -> dict[str, str]:
    """Return a data set's template.

    Raises RecipeError when there is no such data set, or no such template.
    """
    graph.one(name)
    where = graph.recipe.where(name)
    form = _form(graph, name) if graph.targets[name].kind == "dataset" else None
    if form is None:
        raise RecipeError(
            f"{name} is not a data set whose rows ask something",
            where=where,
            hint="it needs prompt, user or messages",
        )
    from olivebuild.data.templates import columns_in

    if single and (form["format"] == "messages" or len(set(columns_in(form["text"]))) != 1):
        raise RecipeError(
            f"what you write is one text, and the template of {name} takes more than that",
            where=where,
            hint="leave --data out",
        )
    return form


def _form(graph: Graph, name: str) -> dict[str, str] | None:
    fields = graph.recipe.targets[name].fields
    template = next(
        (
            (kind, text)
            for kind in ("prompt", "user", "messages")
            if (text := getattr(fields, kind, None)) is not None
        ),
        None,
    )
    return {"name": name, "format": template[0], "text": template[1]} if template else None


# -- chat


def converse(talker: Talker, system: str | None, with_form: bool) -> int:
    """Answer lines of standard input until it ends, and return the exit code."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            # Arrow keys and earlier lines, where the system has them.
            import readline  # noqa: F401
    start = [{"role": "system", "content": system}] if system else []
    messages, interrupted = start, False
    while True:
        try:
            text = _next_line(interactive)
        except KeyboardInterrupt:
            if interrupted or not interactive:
                return 130
            interrupted = True
            click.echo("\nCtrl-C again ends, and so does Ctrl-D")
            continue
        if text is None:
            return 0
        interrupted = False
        if text.strip() == "/new":
            messages = start
        elif text.strip():
            try:
                messages, interrupted = _turn(talker, messages, text, with_form)
            except Refused as e:
                if not interactive:
                    raise
                from olivebuild.ui.console import show_error

                show_error(e)
            if interrupted and not interactive:
                return 130


def _turn(
    talker: Talker, messages: list[dict[str, str]], line: str, with_form: bool
) -> tuple[list[dict[str, str]], bool]:
    """Return the conversation with a question and its answer, and whether it was interrupted.

    Raises Refused for a line that is not UTF-8, and for one that the model refuses.
    """
    if not portable_names.is_text(line):
        raise Refused(
            "the line is not UTF-8 text", where="standard input", hint="write it as UTF-8"
        )
    question = line.strip()
    asked = [*messages, {"role": "user", "content": question}]
    answer, interrupted = _answer(talker, {"text": question} if with_form else {"messages": asked})
    return [*asked, {"role": "assistant", "content": answer}], interrupted


def _answer(talker: Talker, question: dict[str, Any]) -> tuple[str, bool]:
    """Print an answer as it is generated. Return it, and whether it was interrupted."""
    from olivebuild.core.text import clean

    answer, interrupted = "", False
    try:
        for piece in talker.ask(**question):
            answer += piece
            click.echo(clean(piece), nl=False)
    except KeyboardInterrupt:
        interrupted = True
        talker.stop()
    click.echo()
    return answer, interrupted


def _next_line(interactive: bool) -> str | None:
    """Return the next line of standard input; None at its end."""
    if not interactive:
        return sys.stdin.readline() or None
    try:
        return input("> ")
    except EOFError:
        click.echo()
        return None


# -- predict


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
