"""The plain layout: a target's files; of an adapter in slots the base's files, and its own below.

adapters/NAME/adapter.onnx_adapter    beside the files of an onnxruntime-genai folder
"""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from olivebuild.engine.provenance.lineage import lineage_of
from olivebuild.exporters.layouts.origin import Origin, Written, copy, runs_of

ADAPTERS = "adapters"
IN_SLOTS = "onnx-adapter"
"""The kind of what runs in the slots of an ONNX model alone."""


def write(origin: Origin, out: Path) -> Written:
    """Raises InputError, and StoreError where the base is not in build/."""
    name = origin.lineage.target
    if origin.lineage.kind != IN_SLOTS:
        return Written(runs=copy(origin, out))
    runs = copy(_base(origin), out)
    own = copy(origin, out, lambda file: f"{ADAPTERS}/{name}/{file.name}")
    note = f"the adapter lies in {ADAPTERS}/{name}/, beside the model in whose slots it runs"
    return Written(runs=runs | own, notes=(note,))


def _base(origin: Origin) -> Origin:
    """Return the ONNX model in whose slots an adapter runs."""
    project = origin.project
    inputs = project.graph.inputs[origin.lineage.target]
    base = next(source.target for edge, source, _ in inputs if edge.role == "slots")
    plan = project.planner.plan([base])
    state = plan.states[base]
    return structs.replace(
        origin,
        plan=plan,
        lineage=lineage_of(project, plan, base),
        folder=state.folder or project.workspace.output_folder(base),
        runs=runs_of(project, plan, base),
    )
