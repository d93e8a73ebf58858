"""Checks of trainings on a base in FP8: whether the machine at hand has its products."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator

from olivebuild.api.node import Node
from olivebuild.core import host
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict
from olivebuild.steps.parts.frozen_base import LEAST_CAPABILITY, fp8_problem


def problems(
    planner: Planner, plan: Plan, elsewhere: Collection[str] = ()
) -> Iterator[PlanFinding]:
    """Yield the trainings in FP8 that can't run here, and those that would without a GPU.

    `elsewhere` are nodes that another machine makes.
    """
    for state in plan.states.values():
        node = state.node
        if not _is_in_fp8(node) or state.verdict not in (Verdict.STALE, Verdict.WAITING):
            continue
        if node.name in elsewhere:
            continue
        fact, hint, fails = _told_here()
        if fact:
            where = planner.scan.recipe.where(node.target, ("training", "base"))
            yield PlanFinding(node.target, where, fact, hint, (node.name,), fails=fails)


def _is_in_fp8(node: Node) -> bool:
    training = node.fields.get("training")
    return node.kind == "adapter" and isinstance(training, dict) and training.get("base") == "fp8"


def _told_here() -> tuple[str, str, bool]:
    """Return fact and hint of what is told of this machine, and whether it can't be done here."""
    if sys.platform == "darwin":
        return "base: fp8 has no products on this system", "leave `base` out", True
    # The best one is meant: which card a step gets is not known yet.
    best = max(host.compute_capabilities(), default=None)
    if best is None and not host.gpu_names():
        hint = "a GPU of compute capability {}.{} or later has them".format(*LEAST_CAPABILITY)
        return "base: fp8 is slower than none on a processor, and no GPU is to be seen", hint, False
    if best and (problem := fp8_problem(best)):
        return problem.fact, problem.hint, True
    return "", "", False
