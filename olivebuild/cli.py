"""The command line: each verb a list of named calls. Errors are caught here, once."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from olivebuild import __version__
from olivebuild.errors import BuildError, RecipeError, Where

COMMON = ("-C", "-f", "-j", "--directory", "--file", "--jobs")


class Main(click.Group):
    """A group in which what is not a command is a target: `olivebuild onnx-int4` builds it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        i = 0
        while i < len(args) and args[i].partition("=")[0] in COMMON:
            i += 1 if "=" in args[i] else 2
        if not (i < len(args) and (args[i] in self.commands or args[i] in ("--help", "-h", "--version"))):
            args = [*args[:i], "build", *args[i:]]
        return super().parse_args(ctx, args)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """-C and -f, before the command or after it."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.ensure_object(dict)[param.name] = value

    for flags, help_ in ((("-C", "--directory"), "Work in DIR."), (("-f", "--file"), "Read this recipe instead of olivebuild.yaml.")):
        metavar = "DIR" if flags[0] == "-C" else "FILE"
        function = click.option(*flags, metavar=metavar, help=help_, expose_value=False, callback=keep)(function)
    return function


def targets_argument(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: the recipe's targets."""
    try:
        return [name for name in _graph(ctx).recipe.targets if name.startswith(incomplete)]
    except BuildError:
        return []


TARGETS = click.argument("targets", nargs=-1, shell_complete=targets_argument)
TARGET = click.argument("target", shell_complete=targets_argument)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SET = click.option("--set", "settings", multiple=True, metavar="TARGET.FIELD=VALUE", help="Override a field of the recipe for this call.")


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@recipe_options
@click.option("-j", "--jobs", type=click.IntRange(1), help="Run up to N steps at once (default 1).", metavar="N")
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
@click.option("-j", "--jobs", type=click.IntRange(1), help="Run up to N steps at once (default 1).", metavar="N")
@SET
@click.option("--json", "as_json", is_flag=True, help="Print one event a line as JSON.")
@click.pass_context
def build(ctx: click.Context, targets: tuple[str, ...], jobs: int | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Build targets; without any, the recipe's default.

    \b
    olivebuild build onnx-int4 bench
    olivebuild onnx-int4 --set adapter.training.lr=2e-4
    """
    from olivebuild import console
    from olivebuild.build import Build
    from olivebuild.events import Event
    from olivebuild.executors.local import LocalExecutor

    project = _project(ctx, settings)
    goals = project.graph.goals(targets)
    executor = LocalExecutor(jobs or ctx.ensure_object(dict).get("jobs") or 1)
    if as_json:

        def say(event: Event) -> None:
            click.echo(event.to_json())

        report = Build(project.planner, executor, say).run(goals)
    else:
        with console.Display() as display:
            report = Build(project.planner, executor, display).run(goals)
    judged = [] if report.failed else _judge(project, report.plan)
    gates = [vars(j) for j in judged]
    if as_json:
        done = {"ran": report.ran, "restored": report.restored, "fresh": report.fresh, "failed": report.failed, "gates": gates}
        say(Event("done", {**done, "seconds": round(report.seconds, 3)}))
    else:
        for goal in [] if report.failed else goals:
            if project.graph.recipe.targets[goal].kind == "benchmark" and (metrics := _metrics(report.plan, goal)):
                console.show_benchmark(metrics)
        console.show_gates(judged)
        console.show_summary(report)
    for error in report.errors:
        console.show_error(error)
    if report.errors:
        ctx.exit(max(e.exit_code for e in report.errors))
    if not all(j.passed for j in judged):
        ctx.exit(3)


@main.command()
@TARGETS
@recipe_options
@SET
@JSON
@click.pass_context
def plan(ctx: click.Context, targets: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Show what a build would run, why, and what it cost last time. Runs nothing.

    \b
    olivebuild plan onnx-int4
    """
    from olivebuild import console

    project = _project(ctx, settings)
    made = project.planner.plan(project.graph.goals(targets))
    project.workspace.memo.save()
    if not as_json:
        console.show_plan(made)
        return
    rows = []
    for name in made.targets:
        verdict, states = made.target(name)
        last, cost = states[-1], [s.seconds for s in states if s.seconds is not None]
        reasons = [vars(r) for r in console.unique_reasons(states, name)] if verdict.value != "fresh" else []
        kind = project.graph.recipe.targets[name].kind
        seconds = round(sum(cost), 3) if cost else None
        rows.append({"target": name, "kind": kind, "verdict": verdict.value, "key": last.key, "seconds": seconds, "reasons": reasons})
    click.echo(json.dumps({"targets": rows}, indent=2, ensure_ascii=False))


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
    from olivebuild import explain

    project = _project(ctx, settings)
    goals = project.graph.goals([target])
    story = explain.why(project.planner.plan(goals), project.workspace, target)
    project.workspace.memo.save()
    click.echo(json.dumps(explain.to_json(story), indent=2, ensure_ascii=False) if as_json else explain.to_text(story))


@main.command()
@recipe_options
@click.option("--dot", "form", flag_value="dot", help="For Graphviz.")
@click.option("--mermaid", "form", flag_value="mermaid", help="For Markdown.")
@click.pass_context
def graph(ctx: click.Context, form: str | None) -> None:
    """Show the targets and what they are made from.

    \b
    olivebuild graph
    olivebuild graph --dot | dot -Tsvg > graph.svg
    """
    from olivebuild import drawing

    click.echo({"dot": drawing.dot, "mermaid": drawing.mermaid, None: drawing.tree}[form](_graph(ctx)))


@main.command()
@recipe_options
@JSON
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show every target with its verdict, its size and what it cost.

    \b
    olivebuild status
    """
    from olivebuild import console

    project = _project(ctx)
    made = project.planner.plan(project.graph.recipe.targets)
    project.workspace.memo.save()
    rows = []
    for name in made.targets:
        verdict, states = made.target(name)
        last = states[-1]
        kind = project.graph.recipe.targets[name].kind
        rows.append(
            {
                "target": name,
                "kind": kind,
                "verdict": verdict.value,
                "size": last.trace.size if last.trace else None,
                "seconds": last.seconds,
                "folder": str(last.folder) if last.folder and last.folder.exists() else None,
            }
        )
    if as_json:
        click.echo(json.dumps({"targets": rows}, indent=2))
    for row in [] if as_json else rows:
        size = console.size(row["size"]) if row["size"] else ""
        folder = project.planner.scan.shown(Path(row["folder"])) if row["folder"] else ""
        line = f"{row['verdict']:<8} {row['target']:<14} {row['kind']:<10} {size:>9}  {console.seconds(row['seconds']):>12}  {folder}"
        click.echo(line.rstrip())


@main.command()
@TARGET
@recipe_options
@click.pass_context
def log(ctx: click.Context, target: str) -> None:
    """Print what a target's last run wrote.

    \b
    olivebuild log adapter
    """
    project = _project(ctx)
    project.graph.goals([target])
    names = [n.name for n in project.graph.nodes.values() if n.target == target]
    files = [file for name in names if (file := project.workspace.log_file(name)).exists()]
    if not files:
        raise BuildError(f"{target} has no log: it has not run in this folder", hint=f"`olivebuild {target}` builds it")
    for file in files:
        if len(files) > 1:
            click.echo(f"== {file.stem}")
        click.echo(file.read_text("utf-8", errors="replace"), nl=False)


@main.command()
@JSON
def doctor(as_json: bool) -> None:
    """Show what this machine has and what each kind can run here.

    \b
    olivebuild doctor
    """
    from olivebuild import doctor as doctors

    facts = doctors.examine()
    click.echo(json.dumps(facts, indent=2) if as_json else doctors.to_text(facts))


@main.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    \b
    olivebuild schema > olivebuild.schema.json
    """
    from olivebuild.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


@main.command()
@recipe_options
@click.option("--model", required=True, help="A Hugging Face folder, hf:ID, or gguf:FILE.")
@click.option("--data", required=True, help="A jsonl, json, csv or parquet file.")
@click.option("--force", is_flag=True, help="Overwrite a recipe that is there.")
@click.pass_context
def init(ctx: click.Context, model: str, data: str, force: bool) -> None:
    """Write a recipe for a model and a data file.

    \b
    olivebuild init --model hf:Qwen/Qwen2.5-0.5B-Instruct --data data/rows.jsonl
    """
    from olivebuild import scaffold

    folder, name = _place(ctx)
    file = scaffold.write_recipe(folder, name, model, data, force)
    click.echo(f"wrote {file}; next: olivebuild plan")


@main.command()
@TARGETS
@recipe_options
@click.pass_context
def update(ctx: click.Context, targets: tuple[str, ...]) -> None:
    """Pin remote sources and library versions anew in olivebuild.lock.

    \b
    olivebuild update base
    """
    from olivebuild import console
    from olivebuild.build import pin
    from olivebuild.executors.local import LocalExecutor
    from olivebuild.scan import installed

    project = _project(ctx)
    names = project.graph.goals(targets) if targets else list(project.graph.recipe.targets)
    display = console.Display()
    for node in list(project.graph.nodes.values()):
        source = node.step.source(node.fields)
        if node.target in names and source and source.remote:
            before = project.lock.sources.get(source.text)
            after = pin(project.planner, LocalExecutor(), node, display)
            change = "unchanged" if before == after else f"{before or 'not pinned'} -> {after}"
            click.echo(f"{source.text}: {change}")
    for name, before in sorted(project.lock.libraries.items()):
        now = installed(name)
        if now and now != before:
            project.lock.note_version(name, now)
            click.echo(f"{name}: {before} -> {now}")
    project.lock.save()


@main.command()
@TARGET
@recipe_options
@click.pass_context
def accept(ctx: click.Context, target: str) -> None:
    """Keep a target's old result for new versions of libraries, recorded as accepted.

    \b
    olivebuild accept adapter
    """
    from olivebuild.accepting import accept_target

    project = _project(ctx)
    project.graph.goals([target])
    for line in accept_target(project.planner, target):
        click.echo(line)


@main.command()
@recipe_options
@click.option("--dry-run", is_flag=True, help="Say what would be deleted.")
@click.pass_context
def clean(ctx: click.Context, dry_run: bool) -> None:
    """Delete build/ and .olivebuild/ of this recipe. The cache keeps everything.

    \b
    olivebuild clean --dry-run
    """
    project = _project(ctx)
    for folder in (project.workspace.build, project.workspace.state):
        if folder.exists():
            click.echo(f"{'would delete' if dry_run else 'deleted'} {project.planner.scan.shown(folder)}/")
            if not dry_run:
                shutil.rmtree(folder)


@main.command()
@recipe_options
@click.option("--repair", is_flag=True, help="Move damaged blobs to quarantine, so that the next build mends them.")
@JSON
@click.pass_context
def verify(ctx: click.Context, repair: bool, as_json: bool) -> None:
    """Read every blob of the cache and compare it with its digest; exit 1 on any fault.

    \b
    olivebuild verify --repair
    """
    from olivebuild.project import cache_folder
    from olivebuild.store import Store

    store = Store(cache_folder())
    checked, faults = store.verify(repair)
    if as_json:
        click.echo(json.dumps({"checked": checked, "faults": faults}, indent=2))
    else:
        for blob in faults:
            click.echo(f"damaged  {blob}{'  (moved to quarantine)' if repair else ''}")
        click.echo(f"{checked} blobs checked, {len(faults)} damaged")
    ctx.exit(1 if faults else 0)


def _place(ctx: click.Context) -> tuple[Path, str | None]:
    given: dict[str, str] = {}
    for context in reversed([c for c in (ctx, ctx.parent) if c]):
        given |= {k: v for k, v in (context.obj or {}).items() if v is not None}
    return Path(given.get("directory", ".")).absolute(), given.get("file")


def _graph(ctx: click.Context) -> Any:
    from olivebuild.project import open_graph

    return open_graph(*_place(ctx))


def _project(ctx: click.Context, settings: tuple[str, ...] = ()) -> Any:
    from olivebuild.project import open_project

    return open_project(*_place(ctx), settings)


def _metrics(plan: Any, target: str) -> Any:
    state = plan.states[target] if plan else None
    return state.trace.metrics if state and state.trace else None


def _judge(project: Any, plan: Any) -> list[Any]:
    """The gates of all benchmarks that the goals need."""
    from olivebuild.gates import judge

    judged = []
    for name in plan.targets:
        target = project.graph.recipe.targets[name]
        if target.kind == "benchmark" and target.fields.gates and (metrics := _metrics(plan, name)):
            try:
                judged += judge(name, target.fields.gates, metrics)
            except RecipeError as e:
                e.where = project.graph.recipe.where(name, ("gates",))
                raise
    return judged


def run() -> None:
    """The entry point: one place where errors become messages and exit codes."""

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    code = 0
    try:
        code = main.main(prog_name="olivebuild", standalone_mode=False) or 0
    except click.ClickException as e:
        hint = f"`{e.ctx.command_path} --help` shows what it takes" if isinstance(e, click.UsageError) and e.ctx else ""
        code = _fail(RecipeError(e.format_message(), where=Where("command line"), hint=hint))
    except BuildError as e:
        code = _fail(e)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: what was finished is kept", err=True)
        code = 130
    except BrokenPipeError:
        code = 0
    sys.exit(code)


def _fail(error: BuildError) -> int:
    from olivebuild.console import show_error

    show_error(error)
    return error.exit_code
