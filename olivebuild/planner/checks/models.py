"""Checks of models at plan time: faults that are known before anything runs, by place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from olivebuild.api.node import Edge, Node
from olivebuild.core.fs.small_files import read_json
from olivebuild.formats import foreign, hub_cache, imported
from olivebuild.formats.foreign import Fault
from olivebuild.formats.model_config import ModelFinding
from olivebuild.planner.checks import model_use
from olivebuild.planner.checks.model_folder import ModelFolder
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State, Verdict
from olivebuild.recipe.graph import Graph

OF_MODELS = (
    "adapter",
    "merged",
    "onnx",
    "moments",
    "scales",
    "benchmark-accuracy",
    "benchmark-check",
    "benchmark-latency",
)
"""The kinds of nodes that read a model's folder."""
ROLES = ("model", "base", "source")

Problems = dict[tuple[Path, str], PlanFinding]
"""(the model's folder, the fact) -> the problem"""


def problems(planner: Planner, plan: Plan) -> list[PlanFinding]:
    """Return the faults of the nodes that would run, inputs first; each fact of a model once."""
    recipe, by_fact = planner.scan.recipe, Problems()
    folders: dict[Path, ModelFolder] = {}
    for state in plan.states.values():
        if not _would_run(state) or state.node.kind not in OF_MODELS:
            continue
        for edge, source, _ in planner.graph.inputs.get(state.node.name, ()):
            _check_input(planner, plan, state.node, edge, source, folders, by_fact)
    for name, target, fault in _imported_faults(plan, recipe.folder):
        folder = recipe.folder / target
        by_fact[folder, fault.fact] = PlanFinding(
            target=target,
            where=recipe.where(target, ("source",)),
            fact=f"{fault.file}: {fault.fact}",
            hint=foreign.HINT,
            nodes=(name,),
            fails=True,
        )
    return _without_repeats(by_fact)


def _would_run(state: State) -> bool:
    return state.verdict in (Verdict.STALE, Verdict.WAITING)


def _check_input(
    planner: Planner,
    plan: Plan,
    node: Node,
    edge: Edge,
    source: Node,
    folders: dict[Path, ModelFolder],
    by_fact: Problems,
) -> None:
    """Add to `by_fact` the faults of a node's use of the model that an input of it is made from."""
    if edge.role.partition("[")[0] not in ROLES:
        return
    origin = origin_of(planner, plan, source)
    if origin is None:
        return
    model, path = origin
    state = plan.states.get(model.name)
    if state and state.fault:
        # That is said first, and comes alone.
        return
    if path not in folders:
        folders[path] = ModelFolder(path, planner.workspace.memo.digest)
    name = _trained_on(planner.graph, node.name, planner.scan.recipe.folder)
    if not name and model.source:
        name = model.source.name
    findings = model_use.findings(
        folders[path],
        node,
        name,
        rendered_sets(planner.graph, node),
        trusts=planner.graph.trusts_remote_code(source),
    )
    for finding in findings:
        earlier = by_fact.get((path, finding.fact))
        by_fact[path, finding.fact] = (
            earlier._replace(
                hint=finding.hint, nodes=(*earlier.nodes, node.name), fails=finding.fails
            )
            if earlier
            else _problem(planner, finding, model, node, edge)
        )


def _problem(
    planner: Planner, finding: ModelFinding, model: Node, node: Node, edge: Edge
) -> PlanFinding:
    target, field = node.target, finding.field or edge.field
    if finding.of_model:
        target, field = model.target, ("source",)
    return PlanFinding(
        target=target,
        where=planner.scan.recipe.where(target, field),
        fact=finding.fact,
        hint=finding.hint,
        nodes=(node.name,),
        fails=finding.fails,
    )


def rendered_sets(graph: Graph, node: Node) -> list[str]:
    """Return the data sets of a node whose rows the model's own chat template renders."""
    return [
        rows.target
        for _, rows, _ in graph.inputs[node.name]
        if rows.kind == "dataset" and {"user", "messages"} & rows.fields.keys()
    ]


def _imported_faults(plan: Plan, recipe_folder: Path) -> Iterator[tuple[str, str, Fault]]:
    """Yield (node, target, fault) of adapters and ONNX folders on this disk that would be imported.

    A folder with `trust` may hold code, so that none of its faults counts.
    """
    for name, state in plan.states.items():
        node, source = state.node, state.node.source
        if (
            source is None
            or source.scheme != "file"
            or not _would_run(state)
            or node.trusts_remote_code
        ):
            continue
        if node.kind in ("adapter", "onnx"):
            for fault in imported.faults(recipe_folder / source.name, node.kind):
                yield name, node.target, fault


def _without_repeats(by_fact: Problems) -> list[PlanFinding]:
    """Join a fact that begins with another fact of the same model to the shorter one.

    Such are `it is quantised` and `it is quantised, and can't be loaded`.
    """
    result: Problems = {}
    for (folder, fact), problem in by_fact.items():
        shortest = min(_beginnings(by_fact, folder, fact), key=len)
        first = result.get((folder, shortest), by_fact[folder, shortest])
        nodes = tuple(dict.fromkeys((*first.nodes, *problem.nodes)))
        result[folder, shortest] = first._replace(nodes=nodes)
    return list(result.values())


def _beginnings(by_fact: Problems, folder: Path, fact: str) -> Iterator[str]:
    """Yield the facts of a folder's model with which a fact begins, itself included."""
    fails = by_fact[folder, fact].fails
    for (other_folder, other_fact), problem in by_fact.items():
        if other_folder == folder and fact.startswith(other_fact) and problem.fails == fails:
            yield other_fact


def origin_of(planner: Planner, plan: Plan, node: Node) -> tuple[Node, Path] | None:
    """Return the model that a node is or is merged from, and its folder.

    None where the folder is not on this disk yet, or is made of a GGUF file.
    """
    if node.kind not in ("model", "merged"):
        return None
    folder = _folder_of(planner, plan, node)
    if folder is not None and (folder / "config.json").is_file():
        return node, folder
    for edge, source, _ in planner.graph.inputs.get(node.name, ()):
        if edge.role == "model":
            return origin_of(planner, plan, source)
    return None


def _folder_of(planner: Planner, plan: Plan, node: Node) -> Path | None:
    """Return the folder of a model's small files, if it is on this disk."""
    state = plan.states.get(node.name)
    if node.referenced_folder is not None:
        # A fault of the folder is said first, and comes alone.
        return None if state and state.fault else planner.scan.referenced(node)
    if state and state.verdict is Verdict.FRESH:
        return state.folder
    is_of_hub = node.source is not None and node.source.scheme == "hf"
    if node.source and is_of_hub and node.name not in plan.small:
        commit = planner.scan.pin(node)
        if commit:
            return hub_cache.small_files_of(node.source, commit)
    return plan.small.get(node.name)


def _trained_on(graph: Graph, name: str, recipe_folder: Path) -> str:
    """Return the base model that an imported adapter names, where a node merges one; else ""."""
    for edge, node, _ in graph.inputs.get(name, ()):
        if edge.role != "adapter" or node.source is None or node.source.scheme != "file":
            continue
        file = recipe_folder / node.source.name / "adapter_config.json"
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if file.is_file():
                return str(read_json(file).get("base_model_name_or_path") or "")
        return ""
    return ""
