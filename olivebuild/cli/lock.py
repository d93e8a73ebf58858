"""`olivebuild accept`: take an old result as the result for new library versions, without running
anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace
from olivebuild.errors import BuildError
from olivebuild.explain import changed_steps
from olivebuild.key import compare
from olivebuild.plan import Planner
from olivebuild.states import Verdict
from olivebuild.workspace import Last


def accept_target(planner: Planner, target: str) -> Iterator[str]:
    """Say what was accepted.

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
        hint = (
            f"only new versions of libraries can be accepted; `olivebuild {target}` builds it anew"
        )
        if any(r.cause == "step" for r in reasons):
            # A step's version is raised where what it made before is not what it makes now, be it
            # that it was wrong.
            differs = (
                "; ".join(changed_steps([state], reasons)) or "olivebuild makes it differently now"
            )
            raise BuildError(
                f"the old result of {target} is not what it would be now: {differs}", hint=hint
            )
        if other := [r.what for r in reasons if r.cause != "library"]:
            raise BuildError(
                f"{target} is stale for more than versions: {', '.join(other)}", hint=hint
            )
        planner.traces.put(
            replace(before, key=state.key, parts=state.parts, accepted_from=before.key)
        )
        planner.workspace.remember(state.node.name, Last(state.key, tuple(reasons), "accepted"))
        accepted += 1
        for reason in reasons:
            yield f"{target}: accepted for {reason.what} {reason.old} -> {reason.new}"
    planner.workspace.save()
    if not accepted:
        yield f"{target}: nothing to accept"
