"""One build: run it, judge it, record it. Shows nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from msgspec import Struct

from olivebuild.api.event import Listener
from olivebuild.api.executor import Executor
from olivebuild.core import host
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.builder import Builder
from olivebuild.engine.early.judgements import check_gates, early_judgements
from olivebuild.engine.history import Entry
from olivebuild.engine.recorder import Done, Recorder, history_of, record
from olivebuild.engine.scheduler import ResourcePool, Room, limits_of
from olivebuild.library.executors import LOCAL, BuildOptions
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.planner.project import Project
from olivebuild.ui.trackers import Trackers, TrackerTarget

if TYPE_CHECKING:
    from olivebuild.engine.remote.cache import RemoteCache
    from olivebuild.metrics.gates import Judgement

Tell = Callable[[str], None]
"""Is told, a line each, what is neither an event nor an error."""


class BuildOutcome(Struct, frozen=True, kw_only=True):
    """How a build ended: its report, and what its results say."""

    report: BuildReport
    judgements: Sequence[Judgement]
    diagnostics: Sequence[Diagnostic]
    entry: Entry | None
    """Its line in the history; None where it had nothing to do."""


def run(
    project: Project,
    goals: Sequence[str],
    options: BuildOptions,
    executor: Executor,
    display: AbstractContextManager[Listener],
    tell: Tell,
    done: Done | None = None,
) -> BuildOutcome:
    """Build targets, and record the result. A step that fails is in the report.

    `display` is entered when the build begins; `done` are nodes that the same command built before
    it planned again. Raises BuildError for what comes before any step, and FrozenNodeChanged.
    """
    if options.decide:
        check_gates(project.graph, goals)
    for note in project.graph.recipe.notes:
        tell(note)
    is_installed = False
    if options.executor != LOCAL and (options.executor or project.graph.names_executors):
        # Few recipes need it.
        from olivebuild.library.placing import placed

        executor, is_installed = placed(project, goals, options, executor, tell)
    pool = ResourcePool(limits_of(options.resources, host.resources() | project.graph.limits))
    room = None if is_installed else Room(options.jobs, pool, gpus=len(host.gpu_names()))
    trackers = Trackers(
        tuple(TrackerTarget.parse(text) for text in dict.fromkeys(options.log_to)),
        project.graph.recipe.folder.name,
    )
    with trackers, display as listen, remote_cache(project, listen) as remote:
        recorder = Recorder(trackers.tee(listen), done)
        report = Builder(
            project.planner,
            executor,
            recorder,
            pool,
            keep_going=options.keep_going,
            room=room,
            decide=options.decide,
            remote=remote,
        ).run(goals, project.before)
        recorder.complete(report)
        judgements = _judge(project, report)
        diagnostics = project.diagnose(report.plan) if report.plan else ()
        lines: list[str] = []
        if remote and (recorder.done or report.failed):
            # Those of other machines come before this one.
            remote.bring_builds(history_of(project))
        # The history keeps what all rows say.
        entry = record(project, recorder, report, judgements, diagnostics, lines.append)
        if remote and entry:
            remote.share_builds(history_of(project))
    for line in (*trackers.warnings, *lines):
        tell(line)
    judgements += early_judgements(report)
    return BuildOutcome(report=report, judgements=judgements, diagnostics=diagnostics, entry=entry)


def remote_cache(project: Project, listen: Listener) -> AbstractContextManager[RemoteCache | None]:
    """Return the remote cache that the environment names, if it names one."""
    if not (url := os.environ.get("OLIVEBUILD_REMOTE")):
        return nullcontext()
    from olivebuild.engine.remote.cache import RemoteCache

    return RemoteCache(url, project.planner.store, listen)


def _judge(project: Project, report: BuildReport) -> list[Judgement]:
    """Return the gates' judgements of what a build without failures has."""
    plan = report.plan
    if plan is None or report.failed:
        return []
    return project.judge({name: project.metrics(plan, name) for name in plan.targets})
