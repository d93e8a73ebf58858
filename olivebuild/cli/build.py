"""A build from the command line: what it shows, what the history gets, what the next build is told.

All of it is imported at once, while what is known is compared with the disk.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from olivebuild.api.action import Executor
from olivebuild.api.event import Event
from olivebuild.cli.options import Manner, open_all, open_changed, place
from olivebuild.core import host
from olivebuild.core.errors import BuildError
from olivebuild.core.hashing import filesystem_time
from olivebuild.engine import noop
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.builder import Builder
from olivebuild.engine.history import Entry
from olivebuild.engine.recorder import Done, Recorder, history_of, record
from olivebuild.engine.scheduler import ResourcePool, limits_of
from olivebuild.planner import incremental
from olivebuild.planner.plan import FrozenNodeChanged, Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import Verdict
from olivebuild.ui import plain
from olivebuild.ui.display import Showing
from olivebuild.ui.trackers import Place, Sinks

if TYPE_CHECKING:
    from olivebuild.metrics.gates import Judgement


def build_and_remember(
    ctx: click.Context,
    targets: tuple[str, ...],
    manner: Manner,
    executor: Executor,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """The recipe's targets, from what the last build of them knew, and for the next one."""
    state = place(ctx)[0] / ".olivebuild"
    # Where nothing was built yet there is nothing to answer from, and nothing to write into.
    started = filesystem_time(state) if state.is_dir() else 0
    project = open_changed(ctx, settings, targets)
    out, err = noop.Tee(sys.stdout), noop.Tee(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        done: Done = {}
        try:
            report, code = build(project, targets, manner, executor, as_json, done)
        except FrozenNodeChanged:
            project = open_all(ctx, settings)
            report, code = build(project, targets, manner, executor, as_json, done)
    if report.plan and not report.errors:
        db = incremental.remember(
            project.planner, report.plan, targets, project.before, started, report.touched
        )
        if not (report.ran or report.restored):
            noop.save(
                project,
                report.plan,
                db,
                started,
                "".join(out.written),
                "".join(err.written),
                code,
            )
    project.planner.traces.close()
    if code:
        ctx.exit(code)


def build(
    project: Project,
    targets: tuple[str, ...],
    manner: Manner,
    executor: Executor,
    as_json: bool,
    done: Done | None = None,
) -> tuple[BuildReport, int]:
    """What was done, and the exit code. `done`: what it did before it began anew, if it did."""
    goals = project.goals(targets)
    pool = ResourcePool(limits_of(manner.resources, host.resources() | project.graph.limits))
    sinks = Sinks(
        tuple(Place.parse(text) for text in dict.fromkeys(manner.log_to)),
        project.graph.recipe.folder.name,
    )

    def say(event: Event) -> None:
        click.echo(event.to_json())

    try:
        with sinks, Showing() if not as_json else contextlib.nullcontext(say) as display:
            recorder = Recorder(sinks.joining(display), done)
            report = Builder(
                project.planner, executor, recorder, pool, keep_going=manner.keep_going
            ).run(goals, project.before)
            recorder.complete(report)
    except (BuildError, OSError):
        if as_json:
            # Who reads the stream waits for its last line.
            say(
                Event(
                    "done",
                    {
                        "ran": [],
                        "restored": [],
                        "fresh": [],
                        "failed": [],
                        "gates": [],
                        "seconds": 0.0,
                    },
                )
            )
        raise
    for complaint in sinks.complaints:
        click.echo(f"note: {complaint}", err=True)
    plan = report.plan
    judged = (
        project.judge({name: project.metrics(plan, name) for name in plan.targets})
        if plan and not report.failed
        else []
    )
    gates = [asdict(j) for j in judged]
    entry = record(project, recorder, report, judged)
    if as_json:
        end = {
            "ran": report.ran,
            "restored": report.restored,
            "fresh": report.fresh,
            "failed": report.failed,
            "gates": gates,
        }
        say(Event("done", {**end, "seconds": round(report.seconds, 3)}))
    else:
        _show(project, report, goals, judged, entry)
    if report.errors:
        from olivebuild.ui.console import show_error

        for error in report.errors:
            show_error(error)
        return report, max(e.exit_code for e in report.errors)
    return report, 0 if all(j.passed for j in judged) else 3


def _show(
    project: Project,
    report: BuildReport,
    goals: list[str],
    judged: list[Judgement],
    entry: Entry | None,
) -> None:
    """What a build came to.

    What draws takes long to import, and most builds have nothing to draw.
    """
    shown = _to_show(project, report.plan, goals) if report.plan else []
    if not shown and not judged and plain.are_enough():
        if not report.failed:
            click.echo("".join(plain.summary(report)))
        return
    from olivebuild.engine.comparison import since_last
    from olivebuild.metrics.records import read_choice, read_metrics
    from olivebuild.ui import console

    for name, trace_metrics in shown:
        kind = project.graph.targets[name].kind
        if kind == "benchmark":
            metrics = read_metrics(trace_metrics, name)
            console.show_benchmark(metrics)
            console.show_front(metrics)
            if entry and (told := since_last(history_of(project).read(), entry, name)):
                click.echo(told)
        elif kind == "choice":
            console.show_choice(name, read_choice(trace_metrics, name))
    console.show_gates(judged)
    if not report.failed:
        console.show_summary(report)


def _to_show(project: Project, plan: Plan, goals: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """The benchmarks and choices that are goals, and the benchmark that such a choice was made by,
    with their figures.
    """
    shown = [
        name
        for name in goals
        if name in plan.by_target and project.graph.targets[name].kind in ("benchmark", "choice")
    ]
    by = [
        source.target
        for name in shown
        for _, source, _ in project.graph.inputs[name]
        if source.kind == "benchmark"
    ]
    names = [name for name in dict.fromkeys([*by, *shown]) if plan.target(name)[0] is Verdict.FRESH]
    return [(name, metrics) for name in names if (metrics := project.metrics(plan, name))]
