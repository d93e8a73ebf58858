"""chat: a conversation with a model, in a process that loads and runs it."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import Any

import click

from olivebuild.cli.inference.subject import DATA, MAX_TOKENS, build_subject, form_of
from olivebuild.cli.options import SET, TARGET, open_told, recipe_options
from olivebuild.core.fs import portable_names
from olivebuild.executors.model_process import Refused, Settings, Talker


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

    Steps that this needs, and the model, run on this machine.

    Each line is a turn, in the model's own chat template; /new begins anew, Ctrl-D ends. Ctrl-C
    stops an answer; twice, it ends.

    \b
    olivebuild chat onnx-int4
    echo "My umbrella just turned inside out." | olivebuild chat merged --data tone
    """
    # Ctrl-C stops an answer, but who is told to end must end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    project = open_told(ctx, settings)
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
