"""ci: what a pull request changes, collected by one job and commented by another."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from olivebuild.cli.location import nearest_recipe
from olivebuild.cli.options import TARGETS, check_no_target, open_all, recipe_options
from olivebuild.core.errors import InputError

if TYPE_CHECKING:
    from olivebuild.planner.project import Project
    from olivebuild.ui.pull_request.collect import Checkout


@click.group(invoke_without_command=True)
@click.pass_context
def ci(ctx: click.Context) -> None:
    """Tell on a pull request what it changes.

    `plan` collects it and runs nothing; `comment` writes the comment, in a job of its own that has
    the rights to and none of the pull request's files.

    \b
    olivebuild ci plan --before ../main --out report.json
    olivebuild ci comment report.json
    """
    if ctx.invoked_subcommand is None:
        check_no_target(ctx, "ci")
        raise click.UsageError("say what to do: plan, comment", ctx)


@ci.command()
@TARGETS
@recipe_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Write what `olivebuild ci comment` reads.",
)
@click.option(
    "--before",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="The recipe's folder in a checkout of the branch that the pull request is for.",
)
@click.option(
    "--show-rows", is_flag=True, help="Have texts of rows in it: it may be public afterwards."
)
@click.pass_context
def plan(
    ctx: click.Context, targets: tuple[str, ...], out: Path, before: Path | None, show_rows: bool
) -> None:
    """Collect what the build of a pull request would run, its gates, and changed answers.

    Runs nothing. What the remote cache of OLIVEBUILD_REMOTE has counts as made. Ends with 3 where a
    gate is missed, with 1 where the plan has a problem.

    \b
    olivebuild ci plan --before ../main --out olivebuild-ci/report.json
    """
    from msgspec import to_builtins

    from olivebuild.cli.results import write
    from olivebuild.core.streams import json_text
    from olivebuild.planner.project import open_project
    from olivebuild.ui.pull_request.collect import collect
    from olivebuild.ui.pull_request.comment import render

    project = open_all(ctx)
    now = _checkout(project, targets)
    old = (
        _before(open_project(before.absolute(), nearest_recipe(ctx)[1]), targets)
        if before
        else None
    )
    report = collect(now, old, with_rows=show_rows)
    write(out, json_text(to_builtins(report), indent=1) + "\n")
    text = render(report, show_rows=show_rows)
    click.echo(text, nl=False)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as f:
            f.write(text)
    if report.problems:
        ctx.exit(1)
    ctx.exit(3 if any(judgement.fails for judgement in now.judgements()) else 0)


@ci.command()
@click.argument("report", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--show-rows", is_flag=True, help="Have texts of rows in it, where they are there.")
@click.option(
    "--to",
    type=click.Choice(("github", "gitlab", "stdout")),
    help="By default the service whose job this is.",
)
def comment(report: Path, show_rows: bool, to: str | None) -> None:
    """Comment on the pull request from what `ci plan` has left.

    The report may be anybody's: it is read as text of bounded size, and escaped. On which pull
    request, the service says, not the report.

    \b
    olivebuild ci comment report.json
    olivebuild ci comment report.json --to stdout
    """
    from olivebuild.cli.ci import posting
    from olivebuild.core.fs import opening
    from olivebuild.ui.pull_request.comment import render
    from olivebuild.ui.pull_request.records import MOST_BYTES, PullRequestReport

    try:
        if report.is_symlink():
            # What a stranger's job has packed may stand for a file of this machine.
            raise ValueError("it is a link")
        with opening.open_file(report) as f:
            records = PullRequestReport.from_json(f.read(MOST_BYTES + 1))
    except (ValueError, OSError) as e:
        hint = "was it written by the same version of olivebuild?"
        raise InputError(
            f"this is no report of a pull request: {e}", where=str(report), hint=hint
        ) from None
    text = render(records, show_rows=show_rows)
    where = to or _service()
    if where == "stdout":
        click.echo(text, nl=False)
        return
    click.echo({"github": posting.on_github, "gitlab": posting.on_gitlab}[where](text))


def _service() -> str:
    if os.environ.get("GITHUB_ACTIONS") == "true":
        return "github"
    return "gitlab" if os.environ.get("GITLAB_CI") == "true" else "stdout"


def _before(project: Project, targets: tuple[str, ...]) -> Checkout | None:
    """Return the checkout of the other branch, with those of the targets that it has."""
    names = tuple(name for name in targets if name in project.graph.targets)
    if targets and not names:
        return None
    return _checkout(project, names)


def _checkout(project: Project, targets: tuple[str, ...]) -> Checkout:
    from olivebuild.api.event import Event
    from olivebuild.core.text import clean
    from olivebuild.library.building import remote_cache
    from olivebuild.ui.pull_request.collect import Checkout

    def tell(event: Event) -> None:
        if event.name == "note":
            line = f"note: {event.data['target']}: {event.data['text']}"
            click.echo(clean(line), err=True, file=sys.stderr)

    try:
        with remote_cache(project, tell) as remote:
            return Checkout.of(project, project.graph.goals(targets), remote)
    finally:
        project.planner.traces.close()
