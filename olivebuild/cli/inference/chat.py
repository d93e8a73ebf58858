"""chat: a conversation with a model, in a process that loads and runs it."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from olivebuild.cli.inference.adapters import ADAPTERS, Voice, Voices, base_of, check_adapters
from olivebuild.cli.inference.subject import (
    Asking,
    asking_options,
    form_of,
    loading,
    open_subject,
    trained_form,
)
from olivebuild.cli.options import MODEL, open_told, recipe_options
from olivebuild.core.errors import RecipeError
from olivebuild.core.fs import portable_names
from olivebuild.executors.model_process import Refused, Settings, Talker

if TYPE_CHECKING:
    from olivebuild.recipe.graph import Graph


@click.command()
@MODEL
@recipe_options
@asking_options
@ADAPTERS
@click.option(
    "--chat-template",
    is_flag=True,
    help="Ask by the model's own chat template, not by that of the data it was trained on.",
)
@click.option("--system", metavar="TEXT", help="Begin with this system message.")
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
    options: Asking,
    adapters: tuple[str, ...],
    chat_template: bool,
    system: str | None,
    temperature: float,
) -> None:
    """Talk to a model: base, adapter, merged or ONNX.

    It is built first where it is stale, on this machine; at a terminal you are asked. Each line is
    a question in the template of the data that the model was trained on, where that takes one
    text, and else a turn in its chat template; /help tells what else there is. Ctrl-C stops an
    answer; twice, it ends.

    \b
    olivebuild chat onnx-int4
    echo "My umbrella just turned inside out." | olivebuild chat merged --as-is
    """
    # Ctrl-C stops an answer, but who is told to end must end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    project = open_told(ctx, options.settings)
    graph, forms = project.graph, list[dict[str, str]]()
    adapters = check_adapters(graph, target, adapters)
    asked_targets = [base_of(graph, target), *adapters] if adapters else [target]
    voices = {}
    for name in asked_targets:
        form = asked_form(graph, name, options.data, system, by_chat=chat_template)
        if form and form not in forms:
            forms.append(form)
        voices[name] = Voice(
            adapter=name if name in adapters else "", form=forms.index(form) if form else None
        )
    first = asked_targets[1 if adapters else 0]
    with open_subject(project, first, options, adapters) as subject:
        asked = Settings(
            first,
            subject.folder,
            subject.adapter,
            subject.trust_remote_code,
            options.max_tokens,
            tuple(forms),
            temperature,
            template_date=subject.base_date if adapters else subject.template_date,
            trust_adapter=subject.trust_adapter,
            adapters=subject.in_slots(adapters),
        )
        with Talker(asked, project.workspace.log_file(f"{first}.chat")) as talker:
            with loading(first):
                talker.ready()
            number = voices[first].form
            _greet(None if number is None else forms[number], told=options.data is None)
            ctx.exit(converse(talker, system, Voices(voices, first)))


def asked_form(
    graph: Graph, target: str, data: str | None, system: str | None, *, by_chat: bool
) -> dict[str, str] | None:
    """Return the template that questions are put into; None for the chat template.

    Raises RecipeError for options that don't go together.
    """
    graph.one(target)
    if data:
        other = "--chat-template" if by_chat else "--system" if system else ""
        if other:
            raise RecipeError(
                f"--data and {other} don't go together",
                where="command line",
                hint="a data set's template is all that the model is asked; leave one out",
            )
        return form_of(graph, data, single=True)
    return None if by_chat or system else trained_form(graph, target)


def _greet(form: dict[str, str] | None, *, told: bool) -> None:
    """Say on stderr what becomes of a line, where the command line does not say it."""
    if form and told:
        from olivebuild.ui import plain

        plain.echo(
            f"note: each line is asked by itself, in the template of {form['name']}, on which the "
            "model was trained; --chat-template talks to it instead",
            err=True,
        )
    if sys.stdin.isatty() and sys.stdout.isatty():
        click.echo("/help tells what there is beside questions; Ctrl-D ends", err=True)


HELP = """\
/new     forget what was said
/help    show this
Ctrl-C   stops an answer; twice, it ends
Ctrl-D   ends"""
SWITCHING = """\
/adapter NAME lets another answer; without NAME it shows which there are
"""


def converse(talker: Talker, system: str | None, voices: Voices) -> int:
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
        elif told := _told(text.strip(), voices, interactive=interactive):
            click.echo(told)
        elif text.strip():
            try:
                messages, interrupted = _turn(talker, messages, text, voices.now)
            except Refused as e:
                if not interactive:
                    raise
                from olivebuild.ui.console import show_error

                show_error(e)
            if interrupted and not interactive:
                return 130


def _told(line: str, voices: Voices, *, interactive: bool) -> str:
    """Return what a person gets to read for a line that is no question; "" for a question.

    What is piped in is a question whatever it begins with, but for the commands themselves.
    """
    words, several = line.split(), len(voices.names) > 1
    if line == "/help":
        return SWITCHING * several + HELP
    if several and words[:1] == ["/adapter"] and len(words) < 3:
        return voices.turn_to(words[1] if words[1:] else "")
    if interactive and re.fullmatch(r"/[a-z]+", line):
        return f"there is no {line}\n{HELP}"
    return ""


def _turn(
    talker: Talker, messages: list[dict[str, str]], line: str, voice: Voice
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
    to = {"adapter": voice.adapter} if voice.adapter else {}
    answer, interrupted = _answer(
        talker,
        {"messages": asked, **to}
        if voice.form is None
        else {"text": question, "form": voice.form, **to},
    )
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
