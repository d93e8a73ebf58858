"""serve: an endpoint on this machine that answers as OpenAI's does, for trying a model."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from olivebuild.cli.completion import complete_adapters, complete_models
from olivebuild.cli.inference.adapters import adapters_on, base_of, check_adapters
from olivebuild.cli.inference.chat import asked_form
from olivebuild.cli.inference.subject import Asking, Subject, asking_options, loading, open_subject
from olivebuild.cli.options import check_no_target, open_told, recipe_options
from olivebuild.core.errors import RecipeError
from olivebuild.executors.model_process import Settings, Talker

if TYPE_CHECKING:
    from olivebuild.recipe.graph import Graph

KEY = "OLIVEBUILD_API_KEY"
EXTRA = "pip install 'olivebuild[serve]' installs what it needs"


class Listening(Struct, frozen=True, kw_only=True):
    """Where a server listens, whom it answers, and how many requests may wait."""

    host: str
    port: int
    api_key: str | None
    queue: int


def listening_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of listening to a command, which gets them as `listening`."""

    @click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        metavar="ADDRESS",
        help="Listen there; any but this machine's own needs --api-key.",
    )
    @click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=8000,
        show_default=True,
        help="Listen there; 0 takes one that is free.",
    )
    @click.option(
        "--api-key",
        envvar=KEY,
        metavar="KEY",
        help=f"Answer only who sends this key; {KEY} has it out of sight of other users.",
    )
    @click.option(
        "--queue",
        type=click.IntRange(1, 10_000),
        default=64,
        show_default=True,
        metavar="N",
        help="Refuse requests while N wait.",
    )
    @wraps(function)
    def command(
        *args: Any, host: str, port: int, api_key: str | None, queue: int, **rest: Any
    ) -> Any:
        listening = Listening(host=host, port=port, api_key=api_key, queue=queue)
        return function(*args, listening=listening, **rest)

    return command


@click.command()
@click.argument("target", required=False, shell_complete=complete_models)
@recipe_options
@partial(asking_options, most_tokens=2048)
@click.option(
    "--chat-template",
    is_flag=True,
    help="Ask by the model's own chat template, not by that of the data it was trained on.",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="ADAPTER",
    help="Serve this adapter in the model's slots too, by its own name.",
    shell_complete=complete_adapters,
)
@listening_options
@click.pass_context
def serve(
    ctx: click.Context,
    target: str | None,
    options: Asking,
    chat_template: bool,
    adapters: tuple[str, ...],
    listening: Listening,
) -> None:
    """Serve a model on this machine to clients of OpenAI's API, to try it in them.

    It is built first where it is stale, on this machine; at a terminal you are asked. Completions
    and conversations are answered one after the other, also as streams. It is no server for
    production. Ctrl-C ends it.

    \b
    olivebuild serve onnx-int4
    olivebuild serve merged --as-is --port 0
    olivebuild serve int4 --adapter tone --adapter legal
    """
    if target is None:
        check_no_target(ctx, "serve")
        raise click.UsageError("name the model to serve", ctx)
    host = _checked(listening.host, listening.api_key)
    try:
        from olivebuild.server import run
    except ModuleNotFoundError as e:
        fact = f"serving needs the library {e.name}, which is not installed"
        raise RecipeError(fact, where="command line", hint=EXTRA) from None
    # The model's libraries have no use for it.
    os.environ.pop(KEY, None)
    project = open_told(ctx, options.settings)
    adapters = check_adapters(project.graph, target, adapters)
    names = list(dict.fromkeys([target, *adapters]))
    forms = {
        name: asked_form(project.graph, name, options.data, None, by_chat=chat_template)
        for name in names
    }
    settings = run.Options(
        host=host,
        key=listening.api_key or "",
        queue=listening.queue,
        most_tokens=options.max_tokens,
    )
    # Taken before a build that may last hours.
    with (
        run.listen(host, listening.port) as bound,
        open_subject(project, target, options, adapters) as subject,
        Talker(
            _asked(subject, forms, options), project.workspace.log_file(f"{target}.serve")
        ) as talker,
    ):
        with loading(target):
            ready = talker.ready()
        _tell(project.graph, target, forms, ready["models"])
        _greet(run.url_of(bound), names, host)
        models = {name: fingerprint(subject.digests_of(name)) for name in names}
        run.serve(bound, talker, models, settings, _log)
    click.echo("ended", err=True)


def _checked(host: str, key: str | None) -> str:
    """Return the address to listen at. Raises RecipeError for one that needs a key, and has none.

    A name is not looked up: what it leads to may change.
    """
    from olivebuild.server.guard import is_loopback

    where = "--host"
    if host.lower() == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise RecipeError(
            f"{host} is no address", where=where, hint="127.0.0.1, ::1 or an address of this host"
        ) from None
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        hint = "letters and digits, as `openssl rand -hex 16` writes them"
        raise RecipeError("this is no key", where="--api-key", hint=hint)
    if not is_loopback(host) and not key:
        raise RecipeError(
            f"{host} can be reached from other machines, and there is no key",
            where=where,
            hint=f"set {KEY}, or leave --host out",
        )
    return str(address)


def fingerprint(digests: Sequence[str]) -> str | None:
    """Return what tells clients that another model answers under a name; None if not known."""
    from olivebuild.core import hashing

    if not all(digests):
        return None
    digest = digests[0] if len(digests) == 1 else hashing.of_json(list(digests))
    return f"fp_{digest[:12]}"


def _asked(
    subject: Subject, forms: Mapping[str, dict[str, str] | None], options: Asking
) -> Settings:
    """Return the settings of the model process: what it loads, and how each name is asked."""
    templates = [form for form in forms.values() if form]
    return Settings(
        subject.target,
        subject.folder,
        subject.adapter,
        subject.trust_remote_code,
        options.max_tokens,
        tuple(templates),
        template_date=subject.base_date if subject.adapters else subject.template_date,
        trust_adapter=subject.trust_adapter,
        adapters=subject.in_slots(subject.adapters),
        served={name: templates.index(form) if form else None for name, form in forms.items()},
    )


def _tell(
    graph: Graph,
    target: str,
    forms: Mapping[str, dict[str, str] | None],
    ready: Mapping[str, Mapping[str, bool]],
) -> None:
    """Say on stderr how each name is asked, where the command line does not say it."""
    for name, form in forms.items():
        if form:
            _note(
                f"what {name} is asked is put into the template of {form['name']}, one message at "
                "a time; --chat-template talks to it instead"
            )
        elif not ready[name]["speaks"]:
            _note(f"{name} has no chat template: /v1/completions alone is answered")
    more = [name for name in adapters_on(graph, base_of(graph, target)) if name not in forms]
    if more:
        _note(f"--adapter serves more beside it: {', '.join(more)}")


def _greet(url: str, names: Sequence[str], host: str) -> None:
    """Print the address on stdout, for programs too, and on stderr what else is to be known."""
    from olivebuild.server.guard import is_loopback
    from olivebuild.ui import plain

    if not is_loopback(host):
        _note("key and texts go over the network unencrypted")
    plain.echo("for trying a model, not for production; Ctrl-C ends it", err=True)
    plain.echo(f"serving {', '.join(names)} at {url}")


def _note(text: str) -> None:
    from olivebuild.ui import plain

    plain.echo(f"note: {text}", err=True)


def _log(method: str, path: str, status: int, seconds: float) -> None:
    """Print a line for a request."""
    from olivebuild.core.text import clean

    click.echo(f"{clean(method[:10])} {clean(path[:200])} {status} {seconds:.2f} s", err=True)
