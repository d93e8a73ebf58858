"""plan, why, graph, status and log. None of them runs a step."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from olivebuild.cli.options import (
    EXECUTOR,
    JSON,
    SET,
    TARGET,
    TARGETS,
    open_all,
    open_recipe,
    open_told,
    recipe_options,
)
from olivebuild.core import streams, text
from olivebuild.core.errors import BuildError
from olivebuild.library.executors import LOCAL, installed_executor

if TYPE_CHECKING:
    from olivebuild.planner.plan import Plan
    from olivebuild.planner.project import Project
    from olivebuild.planner.states import State, Verdict
    from olivebuild.recipe.placement import Placement


@click.command()
@TARGETS
@recipe_options
@SET
@EXECUTOR
@click.option(
    "--connect",
    is_flag=True,
    help="Ask the machines of executors, too: what they lack or can't give is an error.",
)
@JSON
@click.pass_context
def plan(
    ctx: click.Context,
    targets: tuple[str, ...],
    settings: tuple[str, ...],
    executor: str,
    connect: bool,
    as_json: bool,
) -> None:
    """Show what a build would run, why, and what it cost last time. Runs nothing.

    What the models at hand are known not to allow is an error here, too.

    \b
    olivebuild plan onnx-int4
    """
    from olivebuild.planner.checks.all_checks import problems
    from olivebuild.ui import console, live

    project = open_told(ctx, settings)
    with live.hashing(project.workspace.memo):
        goals = project.graph.goals(targets)
        plan = project.planner.plan(goals, with_faults=True)
        findings = problems(project.planner, plan)
    placement = _placement(project, goals, executor)
    elsewhere = [*placement.sent, *placement.kept]
    if connect and placement.routes:
        from olivebuild.library.placing import refused

        findings += refused(project, plan, executor)
    project.workspace.memo.save()
    dating = project.planner.dating
    dates = dating.told(plan.lookups)
    failing = [problem for problem in findings if problem.fails]
    if as_json:
        answer: dict[str, Any] = {"targets": [_planned(project, plan, n) for n in plan.targets]}
        if dates:
            answer["template_dates"] = [asdict(d) for d in dates]
        if elsewhere:
            answer["executors"] = [line for _, line in elsewhere]
        answer["problems"] = [p.to_json() for p in failing]
        answer["notes"] = [p.to_json() for p in findings if not p.fails]
        click.echo(streams.json_text(answer, indent=2))
    else:
        notes = elsewhere + [(d.target, str(d)) for d in dates]
        notes += [(node.target, note) for node, note in dating.ignored(plan.lookups)]
        console.show_plan(plan)
        console.show_notes(notes)
        console.show_problems(findings)
    ctx.exit(1 if failing else 0)


def _placement(project: Project, goals: list[str], executor: str) -> Placement:
    """Return where a build runs what, as a plan says it. Raises RecipeError."""
    from olivebuild.recipe.placement import Placement, place

    if executor and executor != LOCAL and executor not in project.graph.recipe.executors:
        installed_executor(executor, project.graph.recipe.executors)
        return Placement()
    return place(project.graph, goals, executor)


def _planned(project: Project, plan: Plan, target: str) -> dict[str, Any]:
    """Return a target's row of `plan --json`."""
    from olivebuild.planner.states import Verdict
    from olivebuild.ui.why import unique_reasons

    verdict, states = plan.target(target)
    costs = [state.seconds for state in states if state.seconds is not None]
    reasons = [] if verdict is Verdict.FRESH else unique_reasons(states, target)
    return {
        "target": target,
        "kind": project.graph.targets[target].kind,
        "verdict": verdict.value,
        "key": states[-1].key,
        "seconds": round(sum(costs), 3) if costs else None,
        "reasons": [asdict(reason) for reason in reasons],
    }


@click.command()
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
    from olivebuild.engine.lineage import of_folder
    from olivebuild.engine.recorder import history_of
    from olivebuild.ui import live, plain
    from olivebuild.ui import why as explain
    from olivebuild.ui.console import show_faults

    project = open_told(ctx, settings)
    goals = [project.graph.one(target)]
    with live.hashing(project.workspace.memo):
        plan = project.planner.plan(goals, with_faults=True)
        history = history_of(project)
        failures = last_failures(of_folder(history.read(), history.folder))
        story = explain.why(plan, project.workspace, target, failures)
    project.workspace.memo.save()
    if as_json:
        click.echo(streams.json_text(explain.to_json(story), indent=2))
    else:
        plain.echo(explain.to_text(story))
    ctx.exit(show_faults(plan))


@click.command()
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
    from olivebuild.ui import graph_text

    click.echo(
        {"dot": graph_text.dot, "mermaid": graph_text.mermaid, None: graph_text.tree}[form](
            open_recipe(ctx)
        )
    )


@click.command()
@recipe_options
@JSON
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show every target with its verdict, its size, what of it the cache holds, and what it cost.

    Equal tensors are held once, and a merge holds none that its base lends; so the sum is less than
    its parts.

    \b
    olivebuild status
    """
    from olivebuild.ui import live
    from olivebuild.ui.console import show_faults

    project = open_all(ctx)
    with live.hashing(project.workspace.memo):
        plan = project.planner.plan(project.graph.all_goals, with_faults=True)
    project.workspace.memo.save()
    rows: list[dict[str, Any]] = []
    blobs: dict[str, int] = {}
    total = 0
    for name in plan.targets:
        verdict, states = plan.target(name)
        sizes = _blob_sizes(project, states[-1])
        blobs |= sizes
        total += states[-1].trace.size if states[-1].trace else 0
        rows.append(_status(project, name, verdict, states, sum(sizes.values())))
        if not as_json:
            _print_status(rows[-1])
    stored = sum(blobs.values())
    if as_json:
        click.echo(json.dumps({"targets": rows, "size": total, "stored": stored}, indent=2))
    else:
        click.echo(f"{text.size(total)} in all, of which the cache holds {text.size(stored)}")
    ctx.exit(show_faults(plan))


def _blob_sizes(project: Project, state: State) -> dict[str, int]:
    """Return the blobs of a result that the cache holds, and their sizes in bytes."""
    return project.planner.store.stored_sizes(state.manifest) if state.manifest else {}


def _status(
    project: Project, target: str, verdict: Verdict, states: list[State], stored: int
) -> dict[str, Any]:
    """Return a target's row of `status --json`. `stored`: bytes of it that the cache holds."""
    from olivebuild.data import drops

    last = states[-1]
    shown = None
    if last.folder and last.folder.exists():
        shown = project.planner.scan.shown(last.folder) or None
    dropped = drops.all_told(last.trace.metrics) if last.trace else []
    dropped += [f"{drops.FAILED}: {line}" for line in project.dropped_rows(states)]
    row: dict[str, Any] = {
        "target": target,
        "kind": project.graph.targets[target].kind,
        "verdict": verdict.value,
        "size": last.trace.size if last.trace else None,
        "stored": stored if last.manifest else None,
        "seconds": last.seconds,
        "folder": shown,
    }
    return row | ({"dropped": dropped} if dropped else {})


def _print_status(row: dict[str, Any]) -> None:
    from olivebuild.ui import plain

    size, stored = (
        "" if amount is None else text.size(amount) for amount in (row["size"], row["stored"])
    )
    line = (
        f"{row['verdict']:<8} {row['target']:<14} {row['kind']:<10} {size:>9} {stored:>9}  "
        f"{text.seconds(row['seconds']):>12}  {row['folder'] or ''}"
    )
    plain.echo(line.rstrip())
    for dropped in row.get("dropped", ()):
        plain.echo(f"{'':<9}{text.clean(dropped)}")


@click.command()
@TARGET
@recipe_options
@click.pass_context
def log(ctx: click.Context, target: str) -> None:
    """Print what a target's last run wrote.

    \b
    olivebuild log adapter
    """
    from olivebuild.core.fs import opening

    project = open_all(ctx)
    project.graph.one(target)
    names = [n.name for n in project.graph.nodes.values() if n.target == target]
    files = [file for name in names if (file := project.workspace.log_file(name)).exists()]
    if not files:
        raise BuildError(
            f"{target} has no log: it has not run in this folder",
            hint=f"`olivebuild {target}` builds it",
        )
    for file in files:
        if len(files) > 1:
            click.echo(f"== {file.stem}")
        words = opening.read(file).decode("utf-8", errors="replace")
        # Programs write what they like: a file gets all of it, a terminal is not steered by it.
        click.echo(
            text.clean(words.replace("\r\n", "\n").replace("\r", "\n"))
            if sys.stdout.isatty()
            else words,
            nl=False,
        )
