"""A build's events and last plan -> its line in the history. Decides nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from olivebuild import __version__
from olivebuild.api.event import Event, Listener
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.history import Entry, GateResult, History, NodeRun, TargetMetrics
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import State
from olivebuild.planner.workspace import Workspace

if TYPE_CHECKING:
    from olivebuild.metrics.gates import Judgement

LONG = 64
"""The length from which on a list of numbers is raw data, and stays in trace and artifact."""
RAW = ("samples", "answers", "curve", "comparisons", "diagnostics")

Done = dict[str, tuple[bool, float]]
"""node -> (restored, seconds)"""


class Recorder:
    """A listener that passes every event on, and remembers which nodes ran or were restored."""

    def __init__(self, listen: Listener, earlier: Done | None = None) -> None:
        self._listen = listen
        self._earlier = dict(earlier or {})
        self.done: Done = {} if earlier is None else earlier
        """The nodes done; it begins with those done before the same build restarted."""

    def __call__(self, event: Event) -> None:
        node, seconds = str(event.data.get("node", "")), event.data.get("seconds")
        if event.name in ("finished", "restored") and isinstance(seconds, float | int):
            self.done[node] = (event.name == "restored", round(float(seconds), 3))
        self._listen(event)

    def complete(self, report: BuildReport) -> None:
        """Add to a report the nodes that were done before the build restarted."""
        states = report.plan.states if report.plan else {}
        for name, (restored, _) in self._earlier.items():
            if name in states:
                into, target = report.restored if restored else report.ran, states[name].node.target
                into[:] = dict.fromkeys([*into, target])
                report.touched.add(name)

    def made(self, plan: Plan, workspace: Workspace) -> tuple[NodeRun, ...]:
        """Return the nodes that ran or were restored, with keys and reasons of their results."""
        runs = []
        for name, (restored, seconds) in self.done.items():
            state, last = plan.states.get(name), workspace.last.get(name)
            if state and last:
                runs.append(
                    NodeRun(
                        node=name,
                        target=state.node.target,
                        kind=state.node.kind,
                        key=last.key,
                        restored=restored,
                        seconds=seconds,
                        reasons=last.reasons,
                    )
                )
        return tuple(runs)


def history_of(project: Project) -> History:
    """Return the history of a project, by the name that its lock file has for it."""
    return History(project.planner.store.root, project.graph.recipe.file, project.lock.history)


def record(
    project: Project,
    recorder: Recorder,
    report: BuildReport,
    gates: Iterable[Judgement],
    diagnostics: Iterable[Diagnostic] = (),
    tell: Callable[[str], None] | None = None,
) -> Entry | None:
    """Append a build to the history, unless it had nothing to do.

    Return its entry; None when there is none, or the disk can't be written. `tell` is called with a
    line when builds have got other numbers.
    """
    plan = report.plan
    if plan is None or not (recorder.done or report.failed):
        return None
    entry = Entry(
        goals=tuple(report.goals),
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=round(report.seconds, 3),
        seconds_saved=round(_seconds_saved(plan, recorder.done), 3),
        fresh=len(report.fresh),
        made=recorder.made(plan, project.workspace),
        failed=tuple(report.failed),
        faults=_faults(report),
        measured={name: m for name, state in plan.states.items() if (m := measured(state))},
        gates=tuple(map(_gate_result, gates)),
        diagnostics=tuple(diagnostics),
        machine=machine_of(plan),
        version=__version__,
        folder=history_of(project).folder,
    )
    try:
        _name_history(project)
        history = history_of(project)
        entry = history.append(entry)
        if history.joined and tell:
            tell(
                f"the history of this folder (builds: {history.joined:,}) has joined that of other "
                "checkouts; builds are numbered anew in order of time"
            )
        return entry
    except OSError:
        # The build is done and right; a full disk must not turn it into a failure.
        return None


def _name_history(project: Project) -> None:
    """Write a name of the history into the lock file, unless it has one.

    A folder in which nothing can be written has a history of its own.
    """
    if project.lock.history or project.planner.store.read_only:
        return
    project.lock.name_history(history_of(project).name)
    try:
        project.lock.save()
    except OSError:
        project.lock.history = ""


def fork_history(project: Project) -> History:
    """Give a project a history of its own that begins with the builds of the shared one.

    Raises OSError.
    """
    before = history_of(project)
    project.lock.name_history(anew=True)
    history = before.fork(project.lock.history)
    project.lock.save()
    return history


def _seconds_saved(plan: Plan, done: Done) -> float:
    """Return the seconds that once went into the results that a build did not make again."""
    seconds = plan.seconds_elsewhere
    for name, state in plan.states.items():
        ran = name in done and not done[name][0]
        if (state.trace or state.from_db) and not ran:
            seconds += state.seconds or 0.0
    return seconds


def _faults(report: BuildReport) -> dict[str, str]:
    """Return the place and fact of the first error of each target."""
    faults: dict[str, str] = {}
    for error in report.errors:
        if error.target and error.target not in faults:
            faults[error.target] = f"{error.where}: {error.fact}" if error.where else error.fact
    return faults


def _gate_result(judgement: Judgement) -> GateResult:
    return GateResult(
        target=judgement.target,
        gate=judgement.gate,
        value=compact(judgement.value),
        passed=judgement.passed,
        state=judgement.state,
        interval=judgement.interval,
        rows_needed=judgement.rows_needed,
        strict=judgement.strict,
        why=judgement.why,
    )


def measured(state: State) -> TargetMetrics | None:
    """Return the metrics of a target; None for the parts of one, and for one without metrics."""
    trace, node = state.trace, state.node
    if trace is None or node.name != node.target or not trace.metrics:
        return None
    return TargetMetrics(node.kind, trace.key, compact(dict(trace.metrics)))


def machine_of(plan: Plan) -> dict[str, str]:
    """Return the machine to which a plan's latencies belong; empty without latencies."""
    return {
        part.label: part.value
        for state in plan.states.values()
        for part in state.parts
        if part.cause == "machine"
    }


def compact(value: Any) -> Any:
    """Return metrics without raw samples and answers, and with null for what JSON can't express."""
    if isinstance(value, dict):
        return {name: compact(item) for name, item in value.items() if not _is_raw(name, item)}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [compact(v) for v in value] if isinstance(value, list) else value


def _is_raw(name: str, value: Any) -> bool:
    return name in RAW or (isinstance(value, list) and len(value) > LONG)
