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
from olivebuild.build import Builder
from olivebuild.build_report import BuildReport
from olivebuild.digest import filesystem_time
from olivebuild.errors import BuildError
from olivebuild.events import Event
from olivebuild.executor import Executor
from olivebuild.history import Entry
from olivebuild.options import Manner, open_all, open_changed, place
from olivebuild.plan import FrozenNodeChanged, Plan
from olivebuild.project import Project
from olivebuild.recording import Done, Recorder, history_of, record
from olivebuild.showing import Showing
from olivebuild.sinks import Place, Sinks
from olivebuild.states import Verdict
from olivebuild.turns import ResourcePool, limits_of

from olivebuild import incremental, lines, machine, noop

if TYPE_CHECKING:
    from olivebuild.gates import Judgement


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
    pool = ResourcePool(limits_of(manner.resources, machine.resources() | project.graph.limits))
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
        from olivebuild.console import show_error

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
    if not shown and not judged and lines.are_enough():
        if not report.failed:
            click.echo("".join(lines.summary(report)))
        return
    from olivebuild.comparing import since_last
    from olivebuild.metric_records import read_choice, read_metrics

    from olivebuild import console

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
