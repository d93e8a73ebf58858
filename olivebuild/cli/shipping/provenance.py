"""provenance: documents about a target for others."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

from olivebuild.cli.completion import complete_targets
from olivebuild.cli.options import check_no_target, open_all, recipe_options
from olivebuild.core.errors import StoreError

if TYPE_CHECKING:
    from olivebuild.engine.provenance.lineage import Lineage
    from olivebuild.metrics.records import Metrics
    from olivebuild.planner.plan import Plan
    from olivebuild.planner.project import Project

DSSE = "olivebuild.ml.transfer.signed.dsse"


@click.command()
@click.argument("target", required=False, shell_complete=complete_targets)
@recipe_options
@click.option(
    "--format",
    "form",
    type=click.Choice(("slsa", "cyclonedx")),
    default="slsa",
    show_default=True,
    help="An in-toto statement with SLSA provenance, or an ML-BOM of CycloneDX.",
)
@click.option("--sign", is_flag=True, help="Sign the statement: a DSSE envelope.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write it here instead of printing it.",
)
@click.pass_context
def provenance(
    ctx: click.Context, target: str | None, form: str, sign: bool, out: Path | None
) -> None:
    """Say how a target in build/ was made, and from what: for auditors, not for builds.

    Each file that it consists of, and each that it was made from, is named with its SHA-256; runs
    nothing.

    \b
    olivebuild provenance onnx-int4 --sign --out onnx-int4.intoto.json
    olivebuild provenance onnx-int4 --format cyclonedx --out bom.json
    """
    from olivebuild.cli.results import write
    from olivebuild.engine.provenance import cyclonedx, slsa
    from olivebuild.engine.provenance.lineage import lineage_of

    if target is None:
        check_no_target(ctx, "provenance")
        raise click.UsageError("name a target", ctx)
    if sign and form != "slsa":
        raise click.UsageError("--sign signs statements alone; leave --format out", ctx)
    project = open_all(ctx)
    goals = [*project.goals([target]), *_benchmarks(project)]
    plan = project.planner.plan(goals)
    lineage = lineage_of(project, plan, target)
    project.workspace.memo.save()
    if form == "slsa":
        text = slsa.text(lineage)
    else:
        text = cyclonedx.text(lineage, _measured(project, plan, lineage))
    if sign:
        text = _signed(text)
    if out:
        write(out, text)
    else:
        click.echo(text, nl=False)


def _benchmarks(project: Project) -> list[str]:
    return [name for name, target in project.graph.targets.items() if target.kind == "benchmark"]


def _measured(project: Project, plan: Plan, lineage: Lineage) -> dict[str, Metrics]:
    """Return the metrics of the benchmarks that have measured a target as it is now."""
    from olivebuild.metrics.records import read_metrics

    return {
        name: read_metrics(trace.metrics, name)
        for name in _benchmarks(project)
        if name != lineage.target and (trace := plan.states[name].trace)
    }


def _signed(statement: str) -> str:
    """Return the envelope of a statement, signed with the user's key. Raises StoreError."""
    from olivebuild.core.processes import python

    done = subprocess.run(
        python("-m", DSSE), input=statement, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        hint = "`olivebuild remote keygen` makes a key; it needs olivebuild[signing]"
        raise StoreError(f"the statement was not signed: {lines[-1][:200]}", hint=hint)
    return done.stdout
