"""Command group, errors and exit codes. Each verb is imported when it is called."""

from __future__ import annotations

import contextlib
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from olivebuild import __version__
from olivebuild.cli.completion import items, targets_at_hand
from olivebuild.cli.options import SEEN_KEY, recipe_options
from olivebuild.core import streams
from olivebuild.core.errors import BuildError, RecipeError, StoreError, Where, of_disk
from olivebuild.core.exit_reasons import NO_MEMORY

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from olivebuild.snapshot import StatComparison

VERB_MODULES = {
    **dict.fromkeys(("build", "watch"), "build"),
    **dict.fromkeys(("plan", "why", "graph", "status", "log"), "queries"),
    "doctor": "doctor",
    **dict.fromkeys(("init", "schema"), "setup"),
    **dict.fromkeys(("update", "accept"), "lock"),
    **dict.fromkeys(("clean", "verify", "gc"), "caches.local"),
    **dict.fromkeys(("report", "history", "compare"), "results"),
    "show": "show",
    "provenance": "shipping.provenance",
    **dict.fromkeys(("export", "apply"), "shipping.export"),
    "remote": "caches.remote",
    "ci": "ci.commands",
    "chat": "inference.chat",
    "predict": "inference.predict",
    "serve": "inference.serve",
    **dict.fromkeys(("import", "run"), "importing"),
    **dict.fromkeys(("help", "version"), "about"),
}
"""Verb -> the module of olivebuild.cli that defines it, imported when the verb is called."""
COMMON = ("-C", "-f", "-j", "--directory", "--file", "--jobs")
"""Options that may stand before the verb, each with a value."""


class Main(click.Group):
    """A group in which a word that is no verb is a target: `olivebuild onnx-int4` builds it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        i = 0
        while i < len(args) and args[i].startswith(COMMON):
            attached = "=" in args[i] if args[i].startswith("--") else len(args[i]) > 2
            i += 1 if attached else 2
        if ctx.resilient_parsing and i >= len(args):
            # The word that a shell completes may become a command.
            return super().parse_args(ctx, args)
        not_a_target = {*VERB_MODULES, "--help", "-h", "--version"}
        if i >= len(args) or args[i] not in not_a_target:
            args = [*args[:i], "build", *args[i:]]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and targets that a word may become, or the options.

        No command is imported for it but `build`, whose options may stand without its name.
        """
        if incomplete.startswith("-"):
            build = self.get_command(ctx, "build")
            assert build
            options = [*build.shell_complete(ctx, incomplete), *_options(self, ctx, incomplete)]
            return list({option.value: option for option in options}.values())
        commands = dict.fromkeys(self.list_commands(ctx), "command")
        return items(targets_at_hand(ctx) | commands, incomplete)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERB_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERB_MODULES:
            return None
        module = import_module(f"olivebuild.cli.{VERB_MODULES[cmd_name]}")
        # `import` is no name in Python, and `help` is one of its own.
        name = f"{cmd_name}_" if cmd_name in ("help", "import") else cmd_name
        command: click.Command = getattr(module, name)
        return command


class Help(click.HelpFormatter):
    """Help whose lines are no wider than the terminal, examples among them."""

    def getvalue(self) -> str:
        """Return the help. What goes into files and pipes has lines of 80 columns."""
        text = super().getvalue()
        if not sys.stdout.isatty():
            return text
        from olivebuild.ui.folding import fold_to_terminal

        return fold_to_terminal(text)


click.Context.formatter_class = Help


def _options(command: click.Command, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the options of a command that a word may become."""
    return click.Command.shell_complete(command, ctx, incomplete)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@recipe_options
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    help="Run up to N steps at once (default 1).",
    metavar="N",
)
@click.version_option(__version__, prog_name="olivebuild")
@click.pass_context
def main(ctx: click.Context, jobs: int | None) -> None:
    """Build fine-tuned language models, and rebuild only what an edit made stale.

    \b
    olivebuild onnx-int4          build a target, and what it needs
    olivebuild plan               show what would run, and why
    olivebuild -C recipes/tone    build the default of another folder's recipe
    """
    ctx.ensure_object(dict)["jobs"] = jobs


def run(seen: StatComparison | None = None) -> None:
    """Run the command line, and turn errors into messages and exit codes in one place.

    `seen`: the comparison with the disk that began before this module was imported.
    """

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    streams.fit()
    code = 0
    try:
        code = main.main(prog_name="olivebuild", standalone_mode=False, obj={SEEN_KEY: seen}) or 0
    except click.ClickException as e:
        code = _fail(_usage_error(e))
    except BuildError as e:
        code = _fail(e)
    except (KeyboardInterrupt, click.Abort):
        with contextlib.suppress(OSError):
            click.echo("interrupted: what was finished is kept", err=True)
        code = 130
    except BrokenPipeError:
        # The reader of our output has ended before the build; its goals may not be there.
        sys.exit(1)
    except OSError as e:
        code = _fail(of_disk(e))
    except MemoryError:
        code = _fail(StoreError(NO_MEMORY[0], hint=NO_MEMORY[1]))
    sys.exit(code)


def _usage_error(error: click.ClickException) -> RecipeError:
    hint = ""
    if isinstance(error, click.UsageError) and error.ctx:
        hint = f"`{error.ctx.command_path} --help` shows what it takes"
    return RecipeError(error.format_message(), where=Where("command line"), hint=hint)


def _fail(error: BuildError) -> int:
    from olivebuild.ui.console import show_error

    # With stderr closed, the exit code alone tells.
    with contextlib.suppress(OSError):
        show_error(error)
    return error.exit_code
