"""A planned node -> the action that an executor runs: all that a worker needs, as data.

Nothing is started.
"""

from __future__ import annotations

from pathlib import Path

from olivebuild.api.action import Action, ActionInput, Asked
from olivebuild.api.node import Node
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State, Verdict
from olivebuild.planner.template_dates import LABEL
from olivebuild.recipe.graph import Graph

JUDGES = ("benchmark-accuracy", "benchmark-check")
"""Kinds that go on in one process: to import what loads models takes as long as to judge a few
rows.
"""


def make_action(planner: Planner, plan: Plan, state: State, out: Path) -> Action:
    """Return the action of a node.

    Parts of the target that are in the store alone are written beside `out`. Raises Damaged when
    one is not whole.
    """
    node, scan = state.node, planner.scan
    return Action(
        node=node.name,
        target=node.target,
        kind=node.kind,
        key=state.key or "",
        fields=node.fields,
        inputs=_inputs(planner, plan, node, out),
        files={f.label: [str(p) for p in scan.paths(node, f)] for f in node.files},
        recipe_folder=str(scan.recipe.folder),
        out=str(out),
        store=str(planner.store.root),
        pin=scan.pin(node) or "",
        sha256=scan.lock.digests.get(node.source.text, {}) if node.source else {},
        places=_places(planner, node),
        gpus=node.gpus,
        exclusive=node.exclusive,
        reuses_worker=node.reuses_worker,
        runner=node.runner,
        publish=state.publish_when_built,
        template_date=next(
            (p.value for p in state.parts if (p.cause, p.label) == ("parameter", LABEL)), ""
        ),
        asked=_asked(planner, plan, node, out),
        consumers=[
            [n.kind, n.fields]
            for n in (*_readers(planner.graph, plan, node), *_other_judges(plan, node))
        ],
    )


def _inputs(planner: Planner, plan: Plan, node: Node, out: Path) -> dict[str, ActionInput]:
    inputs = {}
    for edge, source, output in planner.graph.inputs[node.name]:
        origin, named = plan.states[source.name], source.source
        folder, path = "", ""
        if not (edge.streams_tensors and origin.trace and origin.trace.manifest):
            place = origin.folder or _part_folder(planner, origin, out)
            folder, path = str(place), str(place / source.outputs[output])
        inputs[edge.role] = ActionInput(
            folder=folder,
            path=path,
            kind=source.kind,
            target=source.target,
            source=named.text if named else "",
            trust_remote_code=planner.graph.trusts_remote_code(source),
            digest=origin.outputs.get("", "") if origin.outputs else "",
            manifest=origin.trace.manifest if origin.trace else "",
        )
    return inputs


def asking(graph: Graph, plan: Plan, node: Node) -> list[tuple[Node, list[Node]]]:
    """Return the accuracy nodes that will judge an adapter that is trained, with their data sets.

    An adapter may be judged through the merges and conversions that are made of it.
    """
    if node.kind != "adapter" or node.source:
        return []
    models, judges = [node], dict[str, Node]()
    # The list grows while it is walked.
    for model in models:
        for user in _unmade_users(graph, plan, model):
            if user.kind in ("merged", "onnx") and user not in models:
                models.append(user)
            elif user.kind == "benchmark-accuracy":
                judges[user.name] = user
    return [(judge, _data_sets(graph, judge)) for judge in judges.values()]


def judged_model(graph: Graph, node: Node) -> Node | None:
    """Return the node of the model that an accuracy node judges; None for other nodes."""
    if node.kind != "benchmark-accuracy":
        return None
    return next((source for edge, source, _ in graph.inputs[node.name] if edge.role == "model"))


def _unmade_users(graph: Graph, plan: Plan, node: Node) -> list[Node]:
    """Return the nodes of the plan that read a node and have no result yet."""
    states = [plan.states[user] for _, user in graph.users[node.name] if user in plan.states]
    return [graph.nodes[state.node.name] for state in states if state.trace is None]


def _data_sets(graph: Graph, judge: Node) -> list[Node]:
    inputs = graph.inputs[judge.name]
    return [source for edge, source, _ in inputs if edge.role.startswith("data[")]


def _asked(planner: Planner, plan: Plan, node: Node, out: Path) -> list[Asked]:
    asked = []
    for judge, sets in asking(planner.graph, plan, node):
        for source in sets:
            origin = plan.states[source.name]
            if origin.verdict is Verdict.FRESH and origin.trace:
                path = (origin.folder or _part_folder(planner, origin, out)) / source.outputs[
                    "test"
                ]
                whole = bool(judge.fields.get("json_schema") or judge.fields.get("score"))
                asked.append(
                    Asked(judge.target, str(path), int(str(judge.fields["max_new_tokens"])), whole)
                )
    return list(dict.fromkeys(asked))


def _part_folder(planner: Planner, origin: State, out: Path) -> Path:
    """Return a folder, beside the action's, for a node that has none in build/."""
    folder = out.parent / "inputs" / origin.node.name.replace(":", ".")
    if origin.manifest and not folder.exists() and out != Path("."):
        folder.mkdir(parents=True)
        planner.store.restore(origin.manifest, folder)
    return folder


def _places(planner: Planner, node: Node) -> dict[str, list[object]]:
    """Return where the target's fields stand in the recipe."""
    recipe, positions = planner.scan.recipe, planner.graph.targets[node.target].positions
    return {
        field: [
            file or recipe.file.name,
            line,
            column,
            recipe.lines[line - 1] if 0 < line <= len(recipe.lines) else "",
        ]
        for field, (line, column, file) in positions.items()
    }


def _other_judges(plan: Plan, node: Node) -> list[Node]:
    """Return nodes that judge or check a model, as this one does, and can be run by now.

    One of each sort: what a process has to import for one does for all.
    """
    return plan.stale_kinds.one_of_each(JUDGES, but=node.name) if node.kind in JUDGES else []


def _readers(graph: Graph, plan: Plan, node: Node) -> list[Node]:
    """Return the nodes of the plan that have no result yet and read this one's tensors."""
    states = [
        plan.states[user]
        for edge, user in graph.users[node.name]
        if edge.streams_tensors and user in plan.states
    ]
    return [s.node for s in states if s.trace is None and not s.from_db]
