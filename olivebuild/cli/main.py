"""The command line: each verb a list of named calls. Errors are caught here, once."""

from __future__ import annotations

import contextlib
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from olivebuild import __version__
from olivebuild.cli.options import (
    JSON,
    SEEN_KEY,
    SET,
    TARGET,
    TARGETS,
    Manner,
    manner_options,
    open_all,
    open_seen,
    place,
    recipe_options,
)
from olivebuild.core import streams
from olivebuild.core.errors import BuildError, RecipeError, StoreError, Where, of_disk
from olivebuild.core.exit_reasons import NO_MEMORY

if TYPE_CHECKING:
    from olivebuild.planner.project import Project
    from olivebuild.snapshot import StatComparison

ELSEWHERE = {
    **dict.fromkeys(("graph", "status", "log"), "inspect"),
    **dict.fromkeys(("init", "doctor", "schema"), "setup"),
    **dict.fromkeys(("update", "accept"), "lock"),
    **dict.fromkeys(("clean", "verify", "gc"), "cache"),
    **dict.fromkeys(("report", "history", "compare"), "results"),
    **dict.fromkeys(("chat", "predict"), "chat"),
}
"""Verb -> the file that has it."""
COMMON = ("-C", "-f", "-j", "--directory", "--file", "--jobs")


class Main(click.Group):
    """A group in which what is not a command is a target: `olivebuild onnx-int4` builds it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        i = 0
        while i < len(args) and args[i].startswith(COMMON):
            attached = "=" in args[i] if args[i].startswith("--") else len(args[i]) > 2
            i += 1 if attached else 2
        if not (
            i < len(args)
            and (args[i] in self.list_commands(ctx) or args[i] in ("--help", "-h", "--version"))
        ):
            args = [*args[:i], "build", *args[i:]]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # A build need not import what the other verbs do.
        if cmd_name in ELSEWHERE:
            found: click.Command = getattr(
                import_module(f"olivebuild.cli.{ELSEWHERE[cmd_name]}"), cmd_name
            )
            return found
        return super().get_command(ctx, cmd_name)


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


@main.command()
@TARGETS
@recipe_options
@manner_options
@SET
@click.option("--json", "as_json", is_flag=True, help="Print one event a line as JSON.")
@click.pass_context
def build(
    ctx: click.Context,
    targets: tuple[str, ...],
    manner: Manner,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Build targets; without any, the recipe's default.

    \b
    olivebuild build onnx-int4 bench
    olivebuild onnx-int4 --set adapter.training.lr=2e-4
    """
    seen = open_seen(ctx)
    from olivebuild.executors.local import LocalExecutor

    executor = LocalExecutor(manner.jobs)
    executor.warm_up(() if seen and seen.light else ("olivebuild.api.step",))
    try:
        from olivebuild.cli import build as building

        building.build_and_remember(ctx, targets, manner, executor, settings, as_json)
    finally:
        executor.cancel()


@main.command()
@TARGETS
@recipe_options
@manner_options
@SET
@click.option("--json", "as_json", is_flag=True, help="Print one event a line as JSON.")
@click.pass_context
def watch(
    ctx: click.Context,
    targets: tuple[str, ...],
    manner: Manner,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Build, and build again whenever an input or the recipe changes, until Ctrl-C.

    \b
    olivebuild watch onnx-int4
    """
    from olivebuild.api.event import Event
    from olivebuild.cli import build as building
    from olivebuild.engine import watch as watching
    from olivebuild.executors.local import LocalExecutor
    from olivebuild.ui import console

    folder, file = place(ctx)

    def build_once(project: Project) -> None:
        try:
            building.build(project, targets, manner, LocalExecutor(manner.jobs), as_json)
        except BrokenPipeError:
            raise
        except OSError as e:
            raise of_disk(e) from None

    def fail(error: BuildError) -> None:
        console.show_error(error)
        if as_json:
            click.echo(
                Event(
                    "error",
                    {"fact": error.fact, "where": str(error.where or ""), "hint": error.hint},
                ).to_json()
            )

    def say(changed: Path | None) -> None:
        what: dict[str, object] = {"what": str(changed)} if changed else {}
        click.echo(
            Event("changed" if changed else "watching", what).to_json()
        ) if as_json else console.show_watch(changed, folder)

    watching.watch((folder, file), settings, build_once, fail, say)


@main.command()
@TARGETS
@recipe_options
@SET
@JSON
@click.pass_context
def plan(
    ctx: click.Context, targets: tuple[str, ...], settings: tuple[str, ...], as_json: bool
) -> None:
    """Show what a build would run, why, and what it cost last time. Runs nothing.

    What the models at hand are known not to allow is an error here, too.

    \b
    olivebuild plan onnx-int4
    """
    from olivebuild.planner.checks.findings import problems
    from olivebuild.ui import console, live
    from olivebuild.ui import why as explain

    project = open_all(ctx, settings)
    with live.hashing(project.workspace.memo):
        made = project.planner.plan(project.graph.goals(targets), with_faults=True)
        found = problems(project.planner, made)
    project.workspace.memo.save()
    dating = project.planner.dating
    dated = dating.told(made.lookups)
    failing = [problem for problem in found if problem.fails]
    if not as_json:
        console.show_plan(made)
        console.show_notes(
            [
                *((d.target, str(d)) for d in dated),
                *((node.target, text) for node, text in dating.ignored(made.lookups)),
            ]
        )
        console.show_problems(found)
        ctx.exit(1 if failing else 0)
    rows = []
    for name in made.targets:
        verdict, states = made.target(name)
        last, cost = states[-1], [s.seconds for s in states if s.seconds is not None]
        reasons = (
            [asdict(r) for r in explain.unique_reasons(states, name)]
            if verdict.value != "fresh"
            else []
        )
        kind = project.graph.targets[name].kind
        seconds = round(sum(cost), 3) if cost else None
        rows.append(
            {
                "target": name,
                "kind": kind,
                "verdict": verdict.value,
                "key": last.key,
                "seconds": seconds,
                "reasons": reasons,
            }
        )
    told = {
        "problems": [p.to_json() for p in failing],
        "notes": [p.to_json() for p in found if not p.fails],
    }
    dates = {"template_dates": [asdict(d) for d in dated]} if dated else {}
    click.echo(streams.json_text({"targets": rows, **dates, **told}, indent=2))
    ctx.exit(1 if failing else 0)


@main.command()
@TARGET
@recipe_options
@SET
@JSON
@click.pass_context
def why(ctx: click.Context, target: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Explain a target's verdict: what changed, old -> new, down to the root cause.

    \b
    olivebuild why onnx-int4
    """
    from olivebuild.engine.history import last_failures
    from olivebuild.engine.recorder import history_of
    from olivebuild.ui import live
    from olivebuild.ui import why as explain
    from olivebuild.ui.console import show_faults

    project = open_all(ctx, settings)
    goals = [project.graph.one(target)]
    with live.hashing(project.workspace.memo):
        made = project.planner.plan(goals, with_faults=True)
        failures = last_failures(history_of(project).read())
        story = explain.why(made, project.workspace, target, failures)
    project.workspace.memo.save()
    click.echo(
        streams.json_text(explain.to_json(story), indent=2) if as_json else explain.to_text(story)
    )
    ctx.exit(show_faults(made))


def run(seen: StatComparison | None = None) -> None:
    """The entry point: one place where errors become messages and exit codes.

    `seen`: what was looked at before this was imported.
    """

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    streams.fit()
    code = 0
    try:
        code = main.main(prog_name="olivebuild", standalone_mode=False, obj={SEEN_KEY: seen}) or 0
    except click.ClickException as e:
        hint = (
            f"`{e.ctx.command_path} --help` shows what it takes"
            if isinstance(e, click.UsageError) and e.ctx
            else ""
        )
        code = _fail(RecipeError(e.format_message(), where=Where("command line"), hint=hint))
    except BuildError as e:
        code = _fail(e)
    except (KeyboardInterrupt, click.Abort):
        with contextlib.suppress(OSError):
            click.echo("interrupted: what was finished is kept", err=True)
        code = 130
    except BrokenPipeError:
        # Whoever read our output has gone; the goals may not be there.
        sys.exit(1)
    except OSError as e:
        code = _fail(of_disk(e))
    except MemoryError:
        code = _fail(StoreError(NO_MEMORY[0], hint=NO_MEMORY[1]))
    sys.exit(code)


def _fail(error: BuildError) -> int:
    from olivebuild.ui.console import show_error

    # Where nobody can be told, the exit code tells.
    with contextlib.suppress(OSError):
        show_error(error)
    return error.exit_code
