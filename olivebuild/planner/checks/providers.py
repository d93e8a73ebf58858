"""Checks of providers: a model for hardware that is not here, where a node would run it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from olivebuild.api.node import Node
from olivebuild.core.errors import Problem
from olivebuild.core.providers import PROVIDERS, reason_against
from olivebuild.formats.onnx_folder import providers_in
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict

RUN_MODELS = ("benchmark-accuracy", "benchmark-latency")
"""The kinds of nodes that load an ONNX model and run it."""


def problems(planner: Planner, plan: Plan, elsewhere: Collection[str] = ()) -> list[PlanFinding]:
    """Return the models that can't run here and that a node would run; each once for a target.

    `elsewhere` are nodes that another machine makes.
    """
    recipe = planner.scan.recipe
    by_models: dict[tuple[str, str], PlanFinding] = {}
    for state in plan.states.values():
        node = state.node
        if node.kind not in RUN_MODELS or state.verdict not in (Verdict.STALE, Verdict.WAITING):
            continue
        if node.name in elsewhere:
            continue
        for edge, model, _ in planner.graph.inputs.get(node.name, ()):
            problem = problem_of(model, recipe.folder)
            if problem is None:
                continue
            place = node.target, model.target
            earlier = by_models.get(place)
            by_models[place] = PlanFinding(
                target=node.target,
                where=recipe.where(node.target, edge.field),
                fact=problem.fact,
                hint=problem.hint,
                nodes=(*(earlier.nodes if earlier else ()), node.name),
                fails=True,
            )
    return list(by_models.values())


def problem_of(model: Node, recipe_folder: Path) -> Problem | None:
    """Return why an ONNX model can't run here, as far as its fields or its folder tell."""
    if model.kind != "onnx":
        return None
    if model.source is None:
        names = [str(model.fields.get("provider", "cpu"))]
    elif model.source.scheme == "file":
        names = providers_in(recipe_folder / model.source.name)
    else:
        names = []
    return problem_with(model.target, names)


def problem_with(name: str, providers: list[str]) -> Problem | None:
    """Return why a model for these providers can't run here; others than ours are not judged."""
    for provider in providers:
        reason = reason_against(provider) if provider in PROVIDERS else None
        if reason:
            return Problem(f"{name} is built for {provider}: {reason.fact}", reason.hint)
    return None
