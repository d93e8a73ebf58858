"""From a build's events and last plan to its line in the history.

Reads what was done; decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from olivebuild import __version__
from olivebuild.api.event import Event, Listener
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.history import Entry, History, Judged, Made, Measured
from olivebuild.planner.plan import Plan
from olivebuild.planner.project import Project
from olivebuild.planner.states import State
from olivebuild.planner.workspace import Workspace

if TYPE_CHECKING:
    from olivebuild.metrics.gates import Judgement

LONG = 64
"""A list of more numbers is raw data, and stays in the trace and the artifact."""
RAW = ("samples", "answers", "curve", "comparisons")

Done = dict[str, tuple[bool, float]]
"""node -> (restored, seconds)"""


class Recorder:
    """A listener that passes every event on, and remembers which nodes ran or were restored."""

    def __init__(self, listen: Listener, earlier: Done | None = None) -> None:
        self._listen = listen
        self._earlier = dict(earlier or {})
        self.done: Done = {} if earlier is None else earlier
        """Begins with `earlier`: what was done until the same build began anew."""

    def __call__(self, event: Event) -> None:
        node, seconds = str(event.data.get("node", "")), event.data.get("seconds")
        if event.name in ("finished", "restored") and isinstance(seconds, float | int):
            self.done[node] = (event.name == "restored", round(float(seconds), 3))
        self._listen(event)

    def complete(self, report: BuildReport) -> None:
        """Count what was done earlier, too."""
        states = report.plan.states if report.plan else {}
        for name, (restored, _) in self._earlier.items():
            if name in states:
                into, target = report.restored if restored else report.ran, states[name].node.target
                into[:] = dict.fromkeys([*into, target])
                report.touched.add(name)

    def made(self, plan: Plan, workspace: Workspace) -> tuple[Made, ...]:
        found = []
        for name, (restored, seconds) in self.done.items():
            state, last = plan.states.get(name), workspace.last.get(name)
            if state and last:
                found.append(
                    Made(
                        name,
                        state.node.target,
                        state.node.kind,
                        last.key,
                        restored,
                        seconds,
                        last.reasons,
                    )
                )
        return tuple(found)


def history_of(project: Project) -> History:
    recipe = project.graph.recipe
    return History(project.planner.store.root, recipe.folder / recipe.file.name)


def record(
    project: Project, recorder: Recorder, report: BuildReport, gates: Iterable[Judgement]
) -> Entry | None:
    """Append the build to the history, unless it had nothing to do.

    None when there is nothing to tell or the disk refuses.
    """
    plan = report.plan
    if plan is None or not (recorder.done or report.failed):
        return None
    ran = {node for node, (restored, _) in recorder.done.items() if not restored}
    known = {name: s.seconds or 0.0 for name, s in plan.states.items() if s.trace or s.from_db}
    entry = Entry(
        goals=tuple(report.goals),
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=round(report.seconds, 3),
        saved=round(
            plan.seconds_elsewhere
            + sum(seconds for name, seconds in known.items() if name not in ran),
            3,
        ),
        fresh=len(report.fresh),
        made=recorder.made(plan, project.workspace),
        failed=tuple(report.failed),
        faults={
            e.target: f"{e.where}: {e.fact}" if e.where else e.fact
            for e in reversed(report.errors)
            if e.target
        },
        measured={name: m for name, state in plan.states.items() if (m := measured(state))},
        gates=tuple(Judged(j.target, j.gate, compact(j.value), j.passed) for j in gates),
        machine=machine_of(plan),
        version=__version__,
    )
    try:
        return history_of(project).append(entry)
    except OSError:
        # The build is done and right; a full disk must not turn it into a failure.
        return None


def measured(state: State) -> Measured | None:
    """The figures of a target; None for the nodes that it is made of, and where there are none."""
    trace, node = state.trace, state.node
    if trace is None or node.name != node.target or not trace.metrics:
        return None
    return Measured(node.kind, trace.key, compact(dict(trace.metrics)))


def machine_of(plan: Plan) -> dict[str, str]:
    """What the plan's latencies belong to; empty without any."""
    return {
        part.label: part.value
        for state in plan.states.values()
        for part in state.parts
        if part.cause == "machine"
    }


def compact(value: Any) -> Any:
    """Figures without raw samples and answers, and without what JSON has no word for."""
    if isinstance(value, dict):
        return {
            k: compact(v)
            for k, v in value.items()
            if not (isinstance(v, list) and len(v) > LONG) and k not in RAW
        }
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [compact(v) for v in value] if isinstance(value, list) else value
