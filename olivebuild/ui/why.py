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
    """`failures`: of targets whose last build failed, when and with what."""
    verdict, states = plan.target(target)
    reasons = unique_reasons(states, target)
    past = verdict is Verdict.FRESH
    if past:
        lasts = [last for s in states if (last := workspace.last.get(s.node.name))]
        reasons = list(
            dict.fromkeys(
                r
                for last in lasts
                for r in last.reasons
                if not (r.cause == "input" and r.what == target)
            )
        )
    cost = [s.seconds for s in states if s.seconds is not None]
    story = Story(target, verdict, reasons, sum(cost) if cost else None, past)
    made = [s.trace.provenance for s in states if s.trace]
    story.notes = [
        f"made whole by {p['by']}, since {p['because']}"
        for p in made
        if p.get("because") and p.get("by")
    ]
    story.notes += changed_steps(states, reasons)
    story.notes += _other_numerics(states)
    if not past and failures and target in failures:
        story.notes.insert(0, failures[target])
        # It was begun here, if not built.
        story.reasons = [r for r in reasons if r.cause != "new"]
    if not past:
        below = dict.fromkeys(r.what.partition(".")[0] for r in reasons if r.cause == "input")
        story.causes = [
            why(plan, workspace, name, failures, seen | {target})
            for name in below
            if name in plan.targets and name not in seen | {target}
        ]
    return story


def changed_steps(states: list[State], reasons: list[Reason]) -> list[str]:
    """What olivebuild itself does differently since the last run, version by version."""
    found: dict[str, None] = {}
    for kind in dict.fromkeys(state.node.kind for state in states):
        step = step_of(kind)
        for reason in reasons:
            if (
                step
                and reason.cause == "step"
                and reason.what == version_label(kind)
                and reason.old
                and reason.new
            ):
                new = range(int(reason.old) + 1, int(reason.new) + 1)
                found |= {
                    f"olivebuild makes it differently now: {step.changes[v]}": None
                    for v in new
                    if v in step.changes
                }
    return [*found]


def _other_numerics(states: list[State]) -> list[str]:
    """How the machine that made it computes otherwise than this one, where its trace tells."""
    found: dict[str, None] = {}
    for state in states:
        made = state.trace.provenance.get("numerics") if state.trace else None
        if isinstance(made, dict) and (
            other := numerics.differing(made, numerics.here(gpu=state.node.gpu))
        ):
            found[
                f"made under other numerics than this machine's ({'; '.join(other)}): a clean "
                "build here may give other bytes"
            ] = None
    return [*found]


def to_text(story: Story, indent: int = 0) -> str:
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
