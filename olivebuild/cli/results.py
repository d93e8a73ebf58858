"""report, history and compare."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from olivebuild.cli.options import JSON, check_no_target, open_all, recipe_options
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.streams import json_text

if TYPE_CHECKING:
    from olivebuild.metrics.records import Metrics
    from olivebuild.planner.project import Project


@click.command()
@recipe_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the page here instead of build/report.html.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--markdown",
    is_flag=True,
    help="Print Markdown instead, and append it to $GITHUB_STEP_SUMMARY where that is set.",
)
@JSON
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the gates as JUnit XML, too.",
)
@click.pass_context
def report(
    ctx: click.Context,
    out: Path | None,
    show: bool,
    markdown: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Write one page that tells what was built, why, what it cost, and how good it is.

    Runs nothing.

    \b
    olivebuild report --open
    olivebuild report --markdown --junit gates.xml
    """
    from olivebuild.ui import live
    from olivebuild.ui.report.collect import report as collect
    from olivebuild.ui.report.render import junit as xml
    from olivebuild.ui.report.render import markdown as md

    project = open_all(ctx)
    with live.hashing(project.workspace.memo):
        plan = project.planner.plan(project.graph.all_goals)
    project.workspace.memo.save()
    records = collect.collect(project, plan)
    if as_json:
        click.echo(json_text(to_builtins(records), indent=2))
    if markdown:
        text = md.render(records)
        click.echo(text, nl=False)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as f:
                f.write(text)
    if junit:
        write(junit, xml.render(records))
    if out or show or not (as_json or markdown):
        from olivebuild.ui.report.render import html

        file = out or project.workspace.build / "report.html"
        write(file, html.render(records))
        click.echo(f"wrote {file}", err=as_json or markdown)
        if show:
            webbrowser.open(file.resolve().as_uri())


def write(file: Path, text: str) -> None:
    """Write a file whole or not at all, where a link leads to the one behind it.

    A device or a pipe (`/dev/stdout`) is written to, and never replaced by a file.
    """
    if file.exists() and not file.is_file():
        file.write_bytes(text.encode())
        return
    file = Path(os.path.realpath(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.encode())


@click.command()
@recipe_options
@JSON
@click.option(
    "-n",
    "count",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Show the last N builds.",
)
@click.option(
    "--fork",
    is_flag=True,
    help="Give this checkout a history of its own, which begins with the builds so far: for a copy "
    "that goes its own way.",
)
@click.pass_context
def history(ctx: click.Context, as_json: bool, count: int, fork: bool) -> None:
    """List the builds that had something to do: their figures, and why they were made.

    All checkouts of a recipe have one history on a machine, by a name in olivebuild.lock.

    \b
    olivebuild history
    """
    from olivebuild.engine.recorder import fork_history, history_of
    from olivebuild.exporters import shipments
    from olivebuild.ui.console import show_history

    check_no_target(ctx, "history")
    project = open_all(ctx)
    if fork:
        fork_history(project)
        click.echo(f"forked the history; {project.lock.file.name} has its name", err=True)
    builds = history_of(project)
    entries, shipped = builds.read(), shipments.read(builds.file)
    if as_json:
        answer = {"builds": [to_builtins(e) for e in entries[-count:]]}
        answer |= {"shipped": [to_builtins(s) for s in shipped[-count:]]} if shipped else {}
        click.echo(json_text(answer, indent=2))
    else:
        show_history(entries, count)
        for line in shipments.lines(shipped, count):
            click.echo(line)


@click.command()
@click.argument("old", required=False)
@click.argument("new", required=False)
@recipe_options
@JSON
@click.pass_context
def compare(ctx: click.Context, old: str | None, new: str | None, as_json: bool) -> None:
    """Compare two builds, or two models of a benchmark.

    A build is last, last~1, a number or a date. Without any, it compares the last two builds that
    measured a benchmark.

    \b
    olivebuild compare                     the last two builds that measured
    olivebuild compare 2026-11-20 last
    olivebuild compare merged onnx-int4
    """
    from olivebuild.engine import build_comparison
    from olivebuild.engine.history import find, names_build
    from olivebuild.engine.lineage import last_two_measured
    from olivebuild.engine.recorder import history_of
    from olivebuild.ui.console import show_comparison

    project = open_all(ctx)
    if old is None or names_build(old):
        history = history_of(project)
        entries = history.read()
        pair = (
            last_two_measured(entries, history.folder)
            if old is None
            else (find(entries, old), find(entries, new or "last"))
        )
        result = build_comparison.of_builds(entries, *pair)
    else:
        result = build_comparison.of_models(_benchmarks(project), old, new or "last")
    if as_json:
        click.echo(json_text(result.to_json(), indent=2))
    else:
        show_comparison(result)


def _benchmarks(project: Project) -> dict[str, Metrics]:
    """Return the metrics of the recipe's benchmarks, without those not measured yet."""
    from olivebuild.metrics.records import read_metrics

    names = [name for name, target in project.graph.targets.items() if target.kind == "benchmark"]
    plan = project.planner.plan(names)
    project.workspace.memo.save()
    return {
        name: read_metrics(trace.metrics, name)
        for name in names
        if (trace := plan.states[name].trace)
    }
