"""Explanation of a verdict: a target's reasons, and those of its changed inputs below.

It goes down to the root cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import asdict

from olivebuild.api.step import step_of
from olivebuild.cache.key import Reason, version_label
from olivebuild.core import numerics
from olivebuild.core.text import clean
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import State, Verdict
from olivebuild.planner.workspace import Workspace
from olivebuild.ui.wording import describe

WORDS = {
    Verdict.STALE: "will run",
    Verdict.WAITING: "waits",
    Verdict.CACHED: "will be restored",
    Verdict.FRESH: "is fresh",
    Verdict.BROKEN: "can't be made",
}


@dataclass
class Story:
    """A target's verdict, its reasons, and the stories of its changed inputs.

    `past` is True when the target is fresh and the reasons are those of its last run here.
    """

    target: str
    verdict: Verdict
    reasons: list[Reason]
    seconds: float | None = None
    past: bool = False
    causes: list[Story] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Further facts: a fallback from making it tensor by tensor, changes of olivebuild itself."""


def why(
    plan: Plan,
    workspace: Workspace,
    target: str,
    failures: Mapping[str, str] | None = None,
    seen: frozenset[str] = frozenset(),
) -> Story:
    """Return the story of a target's verdict.

    `failures`: target -> time and error of its last build, if that failed. `seen`: targets above.
    """
    verdict, states = plan.target(target)
    costs = [state.seconds for state in states if state.seconds is not None]
    seconds = sum(costs) if costs else None
    if verdict is Verdict.FRESH:
        reasons = _last_reasons(workspace, states, target)
        notes = _notes(states, reasons)
        return Story(target, verdict, reasons, seconds, past=True, notes=notes)
    reasons = unique_reasons(states, target)
    notes = _notes(states, reasons)
    below = dict.fromkeys(r.what.partition(".")[0] for r in reasons if r.cause == "input")
    seen = seen | {target}
    causes = [
        why(plan, workspace, name, failures, seen)
        for name in below
        if name in plan.targets and name not in seen
    ]
    if failures and target in failures:
        notes.insert(0, failures[target])
        # A failed build here began it: "never built" would be wrong.
        reasons = [r for r in reasons if r.cause != "new"]
    return Story(target, verdict, reasons, seconds, causes=causes, notes=notes)


def _last_reasons(workspace: Workspace, states: Iterable[State], target: str) -> list[Reason]:
    """Return the reasons of a target's last run here."""
    reasons: dict[Reason, None] = {}
    for state in states:
        last = workspace.last.get(state.node.name)
        for reason in last.reasons if last else ():
            if not (reason.cause == "input" and reason.what == target):
                reasons[reason] = None
    return [*reasons]


def _notes(states: list[State], reasons: list[Reason]) -> list[str]:
    notes = []
    for state in states:
        provenance = state.trace.provenance if state.trace else {}
        if provenance.get("because") and provenance.get("by"):
            notes.append(f"made whole by {provenance['by']}, since {provenance['because']}")
    return notes + changed_steps(states, reasons) + _other_numerics(states)


def changed_steps(states: list[State], reasons: list[Reason]) -> list[str]:
    """Return the changes of olivebuild's own steps since the last run, version by version."""
    changes: dict[str, None] = {}
    for kind in dict.fromkeys(state.node.kind for state in states):
        step = step_of(kind)
        if not step:
            continue
        for reason in reasons:
            if reason.cause != "step" or reason.what != version_label(kind):
                continue
            if reason.old and reason.new:
                for version in range(int(reason.old) + 1, int(reason.new) + 1):
                    if version in step.changes:
                        text = f"olivebuild makes it differently now: {step.changes[version]}"
                        changes[text] = None
    return [*changes]


def _other_numerics(states: list[State]) -> list[str]:
    """Return how the machine of a result computes differently from this one, if its trace tells."""
    notes: dict[str, None] = {}
    for state in states:
        recorded = state.trace.provenance.get("numerics") if state.trace else None
        if not isinstance(recorded, dict):
            continue
        differences = numerics.differing(recorded, numerics.here(gpu=state.node.gpu))
        if differences:
            notes[
                f"made under other numerics than this machine's ({'; '.join(differences)}): a "
                "clean build here may give other bytes"
            ] = None
    return [*notes]


def to_text(story: Story, indent: int = 0) -> str:
    """Return a story as lines, causes indented below what they caused."""
    pad = "  " * indent
    word = WORDS[story.verdict]
    lines = [
        f"{pad}{story.target} {word}"
        + (", because:" if (story.reasons or story.notes) and not story.past else "")
    ]
    if story.past and story.reasons:
        lines.append(f"{pad}  it was last made because:")
    lines += [f"{pad}  - {clean(describe(reason))}" for reason in story.reasons]
    lines += [f"{pad}  {clean(note)}" for note in story.notes]
    lines += [to_text(cause, indent + 1) for cause in story.causes]
    return "\n".join(lines)


def to_json(story: Story) -> dict[str, object]:
    """Return a story as `why --json` prints it."""
    return {
        "target": story.target,
        "verdict": story.verdict.value,
        "past": story.past,
        "seconds": story.seconds,
        "reasons": [asdict(r) for r in story.reasons],
        "notes": story.notes,
        "causes": [to_json(c) for c in story.causes],
    }


def unique_reasons(states: Iterable[Any], target: str) -> list[Reason]:
    """Return the reasons of a target's nodes, without those that name the target itself."""
    reasons = [
        r for s in states for r in s.reasons if not (r.cause == "input" and r.what == target)
    ]
    return list(dict.fromkeys(reasons))
