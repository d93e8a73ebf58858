"""One build from the command line: run it, show it, record it, and save its state for the next one.

All of it is imported at once, while the snapshot of the last build is compared with the disk.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from olivebuild.api.event import Event
from olivebuild.api.executor import Executor
from olivebuild.cli.location import nearest_recipe, recipe_location
from olivebuild.cli.options import open_all, open_changed
from olivebuild.core import text
from olivebuild.core.errors import BuildError
from olivebuild.core.fs.files import filesystem_time
from olivebuild.engine import noop
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.early.judgements import differing
from olivebuild.engine.history import Entry
from olivebuild.engine.recorder import Done, history_of
from olivebuild.library import building
from olivebuild.library.executors import BuildOptions
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.planner import incremental
from olivebuild.planner.plan import FrozenNodeChanged, Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import State, Verdict
from olivebuild.ui import plain
from olivebuild.ui.display import Showing

if TYPE_CHECKING:
    from olivebuild.metrics.gates import Judgement


def build_and_remember(
    ctx: click.Context,
    targets: tuple[str, ...],
    options: BuildOptions,
    executor: Executor,
    settings: tuple[str, ...],
    as_json: bool,
    *,
    keep_answer: bool = True,
) -> None:
    """Build targets from the state that the last build left, and leave that of this build.

    `keep_answer`: whether the next command of the same words may be answered from what is written.
    """
    folder = nearest_recipe(ctx)[0]
    # Answers are looked for where the command stands.
    keep_answer = keep_answer and folder == recipe_location(ctx)[0]
    state = folder / ".olivebuild"
    # Where nothing was built yet there is nothing to answer from, and nothing to write into.
    started = filesystem_time(state) if state.is_dir() else 0
    # What --decide spared last time is no part of what the last build left.
    project = open_all(ctx, settings) if options.decide else open_changed(ctx, settings, targets)
    out, err = noop.Tee(sys.stdout), noop.Tee(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        done: Done = {}
        try:
            report, code = build(project, targets, options, executor, as_json, done)
        except FrozenNodeChanged:
            # A node that was not read again differs after all: plan the whole graph.
            project = open_all(ctx, settings)
            report, code = build(project, targets, options, executor, as_json, done)
    if report.plan and not (report.errors or report.stopped):
        db = incremental.remember(
            project.planner, report.plan, targets, project.before, started, report.touched
        )
        if keep_answer and not (report.ran or report.restored):
            texts = "".join(out.written), "".join(err.written)
            noop.save(project, report.plan, db, started, *texts, code)
    project.planner.traces.close()
    if code:
        ctx.exit(code)


def build(
    project: Project,
    targets: tuple[str, ...],
    options: BuildOptions,
    executor: Executor,
    as_json: bool,
    done: Done | None = None,
) -> tuple[BuildReport, int]:
    """Build targets, and show and record the result. Return the report and the exit code.

    `done`: nodes that the same command built before it planned again.
    """
    goals = project.goals(targets)
    display: Any = contextlib.nullcontext(_print_event) if as_json else Showing()
    try:
        outcome = building.run(project, goals, options, executor, display, _note, done)
    except (BuildError, OSError):
        if as_json:
            # A reader of the stream waits for its last line.
            _print_done(BuildReport(goals=goals), [], [])
        raise
    report, judgements, diagnostics = outcome.report, outcome.judgements, outcome.diagnostics
    if as_json:
        _print_done(report, judgements, diagnostics)
    else:
        _show(project, report, goals, judgements, diagnostics, outcome.entry)
    _tell_early(report, judgements)
    return report, _exit_code(report, judgements)


def _tell_early(report: BuildReport, judgements: Iterable[Judgement]) -> None:
    """Tell what --decide left out, and early decisions that all rows do not bear out."""
    from olivebuild.metrics.gates import WORDS

    for judged in differing(report, judgements):
        early = report.early[judged.target, judged.gate]
        said = WORDS[early.state] if early.state else "open"
        click.echo(
            f"note: {judged.target}: `{judged.gate}` was told as {said} after "
            f"{early.rows} of {early.of} rows, and all rows say {WORDS[judged.state]}: "
            "1 of 20 early decisions at most is such a one",
            err=True,
        )
    for target in report.stopped:
        click.echo(
            f"note: {target} was ended by --decide and has no table; its answers so far are kept "
            f"(but for those of GPUs), and `olivebuild build {target}` asks the rest",
            err=True,
        )


def _note(line: str) -> None:
    click.echo(f"note: {line}", err=True)


def _exit_code(report: BuildReport, judgements: Iterable[Judgement]) -> int:
    """Show the errors, if any, and return theirs.

    Else 3 for a gate that is missed or, where it is strict, not decided; else 0.
    """
    if report.errors:
        from olivebuild.ui.console import show_error

        for error in report.errors:
            show_error(error)
        return max(e.exit_code for e in report.errors)
    return 3 if any(judgement.fails for judgement in judgements) else 0


def _print_event(event: Event) -> None:
    click.echo(event.to_json())


def _print_done(
    report: BuildReport, judgements: Iterable[Judgement], diagnostics: Iterable[Diagnostic]
) -> None:
    """Print the last event of a build's stream."""
    summary: dict[str, object] = {
        "ran": report.ran,
        "restored": report.restored,
        "fresh": report.fresh,
        "failed": report.failed,
        "gates": [asdict(judgement) for judgement in judgements],
        "diagnostics": [asdict(diagnostic) for diagnostic in diagnostics],
        "early": [
            {"target": target, **asdict(standing)} for (target, _), standing in report.early.items()
        ],
        "stopped": report.stopped,
        "seconds": round(report.seconds, 3),
    }
    _print_event(Event("done", summary))


def _show(
    project: Project,
    report: BuildReport,
    goals: list[str],
    judgements: Sequence[Judgement],
    diagnostics: Sequence[Diagnostic],
    entry: Entry | None,
) -> None:
    """Show a build's benchmarks, choices, gates, diagnostics and summary.

    Drawing takes long to import, and most builds have nothing to draw.
    """
    measured = _goal_metrics(project, report.plan, goals) if report.plan else {}
    if not measured and not judgements and not diagnostics and plain.are_enough():
        if not report.failed:
            click.echo("".join(plain.summary(report)))
            _show_model(project, report)
        return
    from olivebuild.ui import console

    for name, metrics in measured.items():
        if project.graph.targets[name].kind == "benchmark":
            _show_benchmark(project, name, metrics, entry)
        else:
            from olivebuild.metrics.records import read_choice

            console.show_choice(name, read_choice(metrics, name))
    console.show_gates(judgements)
    console.show_diagnostics(diagnostics)
    console.show_decision(judgements, diagnostics)
    if not report.failed:
        console.show_summary(report)
        _show_model(project, report)


MODELS = ("adapter", "merged", "onnx", "choice")
"""The kinds of which a build tells where they lie, the last of them first."""


def _show_model(project: Project, report: BuildReport) -> None:
    """Say where the model lies that a build was for, and what to do with it.

    Nothing is said of a build that made nothing.
    """
    if report.plan and (report.ran or report.restored) and (state := _product(report)):
        trace = state.trace or (project.planner.traces.get(state.key) if state.key else None)
        shown = _from_here(str(state.folder))
        size = f" ({text.size(trace.size)})" if trace else ""
        name = state.node.target
        plain.echo(f"{'model':<9}{shown}{size}; to talk to it: olivebuild{_place()} chat {name}")


def _product(report: BuildReport) -> State | None:
    """Return the model that a build was for: a goal, or what a goal judged, as far along as any."""
    assert report.plan
    states = [
        state
        for state in report.plan.states.values()
        if state.node.kind in MODELS and state.verdict is Verdict.FRESH and state.folder
    ]
    wanted = set(report.goals)
    goals = [state for state in states if state.node.target in wanted]
    there = [state for state in goals or states if state.folder and state.folder.is_dir()]
    return max(reversed(there), key=lambda s: MODELS.index(s.node.kind), default=None)


def _from_here(path: str) -> str:
    """Return a path as it is written in the current folder, unless that is longer."""
    try:
        return min(os.path.relpath(path), path, key=len)
    except ValueError:
        # On another drive.
        return path


def _place() -> str:
    """Return the options of this call that say where the recipe is, as they were written."""
    context = click.get_current_context()
    options = (context.find_root().obj or {}) | (context.obj or {})
    words = [(flag, options.get(name)) for flag, name in (("-C", "directory"), ("-f", "file"))]
    return "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in words if value)


def _show_benchmark(
    project: Project, name: str, trace_metrics: Mapping[str, Any], entry: Entry | None
) -> None:
    """Show a benchmark's table and front, and how it compares with the build before."""
    from olivebuild.engine.build_comparison import since_last
    from olivebuild.metrics.records import read_metrics
    from olivebuild.ui import console

    metrics = read_metrics(trace_metrics, name)
    console.show_benchmark(metrics)
    console.show_measurement(metrics, carried=name not in speeds_measured(entry))
    console.show_front(metrics)
    change = since_last(history_of(project).read(), entry, name) if entry else ""
    if change:
        plain.echo(change)


def speeds_measured(entry: Entry | None) -> set[str]:
    """Return the benchmarks of which a build has measured the speeds itself."""
    made = entry.made if entry else ()
    return {run.target for run in made if run.kind == "benchmark-latency" and not run.restored}


def _goal_metrics(project: Project, plan: Plan, goals: list[str]) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of the fresh goals that are benchmarks and choices, by target.

    The benchmark that a choice is made by precedes it.
    """
    built = [goal for goal in goals if goal in plan.by_target]
    names = [n for n in built if project.graph.targets[n].kind in ("benchmark", "choice")]
    sources = [source for name in names for _, source, _ in project.graph.inputs[name]]
    benchmarks = [source.target for source in sources if source.kind == "benchmark"]
    metrics: dict[str, Mapping[str, Any]] = {}
    for name in dict.fromkeys([*benchmarks, *names]):
        if plan.target(name)[0] is Verdict.FRESH and (values := project.metrics(plan, name)):
            metrics[name] = values
    return metrics
