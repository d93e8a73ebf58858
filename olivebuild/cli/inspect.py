"""graph, status and log."""

from __future__ import annotations

import json
import sys

import click

from olivebuild.cli.options import (
    JSON,
    TARGET,
    open_all,
    open_recipe,
    recipe_options,
)
from olivebuild.core import text
from olivebuild.core.errors import BuildError


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
    from olivebuild.data import drops
    from olivebuild.ui import live
    from olivebuild.ui.console import show_faults

    project = open_all(ctx)
    with live.hashing(project.workspace.memo):
        made = project.planner.plan(project.graph.all_goals, with_faults=True)
    project.workspace.memo.save()
    rows: list[dict[str, object]] = []
    all_held: dict[str, int] = {}
    for name in made.targets:
        verdict, states = made.target(name)
        last, kind = states[-1], project.graph.targets[name].kind
        size = last.trace.size if last.trace else None
        held = project.planner.store.held(last.manifest) if last.manifest else {}
        all_held |= held
        folder = last.folder if last.folder and last.folder.exists() else None
        shown = project.planner.scan.shown(folder) if folder else ""
        stored = sum(held.values()) if last.manifest else None
        row: dict[str, object] = {
            "target": name,
            "kind": kind,
            "verdict": verdict.value,
            "size": size,
            "stored": stored,
            "seconds": last.seconds,
        }
        dropped = drops.all_told(last.trace.metrics) if last.trace else []
        dropped += [f"{drops.FAILED}: {line}" for line in project.dropped_rows(states)]
        rows.append(row | {"folder": shown or None} | ({"dropped": dropped} if dropped else {}))
        if not as_json:
            amount, kept = (text.size(n) if n is not None else "" for n in (size, stored))
            line = (
                f"{verdict.value:<8} {name:<14} {kind:<10} {amount:>9} {kept:>9}  "
                f"{text.seconds(last.seconds):>12}  {shown}"
            )
            click.echo(line.rstrip())
            for told in dropped:
                click.echo(f"{'':<9}{text.clean(told)}")
    total = sum(s.trace.size for n in made.targets if (s := made.target(n)[1][-1]).trace)
    if as_json:
        click.echo(
            json.dumps({"targets": rows, "size": total, "stored": sum(all_held.values())}, indent=2)
        )
    else:
        click.echo(
            f"{text.size(total)} in all, of which the cache holds "
            f"{text.size(sum(all_held.values()))}"
        )
    ctx.exit(show_faults(made))


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
