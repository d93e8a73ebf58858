"""update and accept: pins of olivebuild.lock, and old results accepted for new versions."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from olivebuild.cache.key import Reason, compare
from olivebuild.cli.options import (
    TARGET,
    TARGETS,
    open_all,
    recipe_options,
)
from olivebuild.core.errors import BuildError, RecipeError
from olivebuild.planner.plan import Planner
from olivebuild.planner.states import State, Verdict
from olivebuild.planner.workspace import LastBuild
from olivebuild.ui.why import changed_steps

if TYPE_CHECKING:
    from olivebuild.planner.project import Project


def accept_target(planner: Planner, target: str) -> Iterator[str]:
    """Accept a target's old results, and yield a line for each accepted change.

    Raises BuildError when there is no old result, or more than the versions of libraries changed.
    """
    accepted = 0
    for state in planner.plan([target]).states.values():
        if state.node.target != target or state.verdict is not Verdict.STALE or state.trace:
            continue
        last = planner.workspace.last.get(state.node.name)
        before = planner.traces.get(last.key) if last else None
        if before is None or state.key is None:
            raise BuildError(
                f"{target} has no old result here to accept",
                hint=f"`olivebuild {target}` builds it",
            )
        reasons = compare(before.parts, state.parts)
        _check_acceptable(target, state, reasons)
        planner.traces.put(
            replace(before, key=state.key, parts=state.parts, accepted_from=before.key)
        )
        planner.workspace.remember(
            state.node.name, LastBuild(state.key, tuple(reasons), "accepted")
        )
        accepted += 1
        for reason in reasons:
            yield f"{target}: accepted for {reason.what} {reason.old} -> {reason.new}"
    planner.workspace.save()
    if not accepted:
        yield f"{target}: nothing to accept"


def _check_acceptable(target: str, state: State, reasons: list[Reason]) -> None:
    """Raise BuildError unless all reasons are new versions of libraries."""
    hint = f"only new versions of libraries can be accepted; `olivebuild {target}` builds it anew"
    if any(reason.cause == "step" for reason in reasons):
        # A step's version is raised where its results differ from those it made before, also
        # because these were wrong.
        changes = changed_steps([state], reasons) or ["olivebuild makes it differently now"]
        raise BuildError(
            f"the old result of {target} is not what it would be now: {'; '.join(changes)}",
            hint=hint,
        )
    others = [reason.what for reason in reasons if reason.cause != "library"]
    if others:
        raise BuildError(
            f"{target} is stale for more than versions: {', '.join(others)}", hint=hint
        )


@click.command()
@TARGETS
@recipe_options
@click.option(
    "--template-date",
    is_flag=True,
    help="Only the date that chat templates are told: today's, in UTC.",
)
@click.pass_context
def update(ctx: click.Context, targets: tuple[str, ...], template_date: bool) -> None:
    """Pin remote sources and library versions anew in olivebuild.lock.

    Sources are asked from this machine, whatever executor builds run on.

    \b
    olivebuild update base
    olivebuild update --template-date
    """
    if template_date:
        _refuse_targets(targets)
        update_template_date(open_all(ctx))
        return
    project = open_all(ctx)
    _update_sources(project, project.graph.goals(targets) if targets else project.graph.targets)
    _update_libraries(project)
    project.lock.save()


def _refuse_targets(targets: tuple[str, ...]) -> None:
    """Raise RecipeError for arguments of --template-date, which sets the date of all models."""
    if not targets:
        return
    from olivebuild.formats import template_clock

    dates = [text for text in targets if template_clock.is_date(text)]
    fact = "--template-date takes no date" if dates else "--template-date takes no targets"
    date = dates[0] if dates else template_clock.today()
    hint = (
        "today's, in UTC, becomes that of the whole recipe, in olivebuild.lock; the field "
        f"`template_date: {date}` of a model sets another"
    )
    raise RecipeError(fact, where="command line", hint=hint)


def _update_sources(project: Project, targets: Container[str]) -> None:
    """Pin the remote sources of targets anew, and print each."""
    from olivebuild.engine.pin import pin
    from olivebuild.executors.local import LocalExecutor
    from olivebuild.ui.live import Display

    display = Display()
    for node in list(project.graph.nodes.values()):
        source = node.source
        if node.target not in targets or not source or not source.remote:
            continue
        before = project.lock.sources.get(source.text)
        after = pin(project.planner, LocalExecutor(), node, display)
        change = "unchanged" if before == after else f"{before or 'not pinned'} -> {after}"
        click.echo(f"{source.text}: {change}")


def _update_libraries(project: Project) -> None:
    """Note the installed versions of the locked libraries, and print those that changed."""
    from olivebuild.core.host import installed

    for name, before in sorted(project.lock.libraries.items()):
        now = installed(name)
        if now and now != before:
            project.lock.note_version(name, now)
            click.echo(f"{name}: {before} -> {now}")


def update_template_date(project: Project) -> None:
    """Pin today's date, in UTC, for chat templates, and name the models with dates of their own."""
    from olivebuild.formats import template_clock
    from olivebuild.planner.template_dates import LABEL

    before, now = project.lock.template_date, template_clock.today()
    project.lock.pin_template_date(now)
    project.lock.save()
    click.echo(
        f"{LABEL}: " + ("unchanged" if before == now else f"{before or 'not pinned'} -> {now}")
    )
    for node in project.graph.nodes.values():
        if (date := node.fields.get(LABEL)) and date != template_clock.FREEZE:
            click.echo(f"{node.target} has a {LABEL} of its own, {date}, which stays")


@click.command()
@TARGET
@recipe_options
@click.pass_context
def accept(ctx: click.Context, target: str) -> None:
    """Keep a target's old result for new versions of libraries, recorded as accepted.

    \b
    olivebuild accept adapter
    """
    project = open_all(ctx)
    project.graph.one(target)
    for line in accept_target(project.planner, target):
        click.echo(line)
