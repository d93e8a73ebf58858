"""Where the inputs and outputs of a node lie, for the sums that signatures have of them."""

from __future__ import annotations

from olivebuild.cache.remote_records import InputPlace, StepPaths
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State


def paths_of(planner: Planner, plan: Plan, state: State) -> StepPaths:
    """Return them for a node whose key is known.

    Of inputs those whose content is in the key: others don't decide what is made.
    """
    return StepPaths(
        inputs=(*_results(planner, plan, state), *_files(planner, state)),
        outputs=dict(state.node.outputs),
    )


def _results(planner: Planner, plan: Plan, state: State) -> list[InputPlace]:
    places = []
    for edge, source, output in planner.graph.inputs[state.node.name]:
        outputs = plan.states[source.name].outputs
        if not edge.keyed or not outputs:
            continue
        folder = source.referenced_folder
        places.append(
            InputPlace(
                label=f"input {edge.role}",
                digest=outputs[output],
                path=str(planner.scan.referenced(source)) if folder is not None else "",
                is_model=folder is not None,
                code=folder is not None and source.trusts_remote_code,
                key=plan.states[source.name].key or "",
                output=output,
                within=source.outputs.get(output, "."),
            )
        )
    return places


def _files(planner: Planner, state: State) -> list[InputPlace]:
    """Return the files that a node reads, by the labels that its key has for them."""
    node, scan = state.node, planner.scan
    paths = {
        f"{wanted.label}[{i}]": path
        for wanted in node.files
        for i, path in enumerate(scan.paths(node, wanted))
    }
    if node.program:
        paths |= {f"module[{i}]": path for i, path in enumerate(scan.program(node).modules)}
    digests = {part.label: part.value for part in state.parts if part.cause == "file"}
    return [
        InputPlace(label=f"file {label}", digest=digests[label], path=str(path))
        for label, path in paths.items()
        if label in digests
    ]
