"""The verbs that look back: history and compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from olivebuild.options import JSON, open_all, recipe_options

if TYPE_CHECKING:
    from olivebuild.project import Project


@click.command()
@recipe_options
@JSON
@click.option("-n", "count", type=click.IntRange(1), default=20, show_default=True, help="Show the last N builds.")
@click.pass_context
def history(ctx: click.Context, as_json: bool, count: int) -> None:
    """List the builds that had something to do: what changed, what was made, and what was measured.

    \b
    olivebuild history
    """
    from olivebuild.console import show_history
    from olivebuild.recording import history_of

    entries = history_of(open_all(ctx)).read()
    if as_json:
        click.echo(json.dumps({"builds": [asdict(e) for e in entries[-count:]]}, indent=2, ensure_ascii=False))
    else:
        show_history(entries, count)


@click.command()
@click.argument("old", default="last~1")
@click.argument("new", default="last")
@recipe_options
@JSON
@click.pass_context
def compare(ctx: click.Context, old: str, new: str, as_json: bool) -> None:
    """Compare two builds, or two models of a benchmark. A build is last, last~1, a number or a date.

    \b
    olivebuild compare                     the last build with the one before
    olivebuild compare 2026-11-20 last
    olivebuild compare merged onnx-int4
    """
    from olivebuild import comparing
    from olivebuild.console import show_comparison
    from olivebuild.history import find, names_build
    from olivebuild.recording import history_of

    project = open_all(ctx)
    if names_build(old):
        entries = history_of(project).read()
        found = comparing.of_builds(entries, find(entries, old), find(entries, new))
    else:
        found = comparing.of_models(_benchmarks(project), old, new)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        show_comparison(found)


def _benchmarks(project: Project) -> dict[str, Mapping[str, Any]]:
    """The figures of the recipe's benchmarks as they stand; what is not measured yet is left out."""
    names = [name for name, target in project.graph.targets.items() if target.kind == "benchmark"]
    plan = project.planner.plan(names)
    project.workspace.memo.save()
    return {name: trace.metrics for name in names if (trace := plan.states[name].trace)}


VERBS = (history, compare)
