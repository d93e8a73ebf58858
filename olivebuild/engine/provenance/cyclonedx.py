"""A lineage as a bill of materials of machine learning (ML-BOM) of CycloneDX 1.6.

https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from olivebuild import __version__
from olivebuild.engine.provenance.lineage import DigestedFile, Lineage, StepRun
from olivebuild.metrics.catalogue import BY_NAME
from olivebuild.metrics.records import Metrics, MetricSet

MODELS = ("model", "adapter", "merged", "onnx", "onnx-adapter", "choice")
SPECIFICATION = "1.6"
NAMESPACE = uuid.UUID("6f1f0c1c-6a5e-4d0f-9a7c-3d6b2f4c9e10")
"""Of the serial numbers, so that equal documents have equal ones."""

Json = dict[str, Any]


def bom(lineage: Lineage, benchmarks: Mapping[str, Metrics]) -> Json:
    """Return the bill of materials of a target. `benchmarks` are those that may have measured it.

    It depends on the target alone: no time, and no random number.
    """
    document: Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {"type": "application", "name": "olivebuild", "version": __version__}
                ]
            },
            "component": _subject(lineage, benchmarks),
        },
        "components": list(_components(lineage)),
        "dependencies": list(_dependencies(lineage)),
    }
    serial = uuid.uuid5(NAMESPACE, json.dumps(document, sort_keys=True))
    return {**document, "serialNumber": f"urn:uuid:{serial}"}


def text(lineage: Lineage, benchmarks: Mapping[str, Metrics]) -> str:
    """Return the bill of materials as JSON."""
    return json.dumps(bom(lineage, benchmarks), indent=2, ensure_ascii=False) + "\n"


def _subject(lineage: Lineage, benchmarks: Mapping[str, Metrics]) -> Json:
    component = _component(lineage.target, lineage.kind, lineage.steps)
    component["components"] = [_file(f, f"{lineage.target}/{f.name}") for f in lineage.files]
    if "modelCard" not in component:
        return component
    datasets = [{"ref": f"node:{run.node}"} for run in lineage.steps if run.kind == "dataset"] + [
        {"ref": _file_ref(node, file)}
        for node, files in lineage.read.items()
        for file in files
        if _is_data(lineage, node)
    ]
    parameters = component["modelCard"]["modelParameters"]
    if datasets:
        parameters["datasets"] = datasets
    if metrics := list(_performance(lineage.target, benchmarks)):
        component["modelCard"]["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return component


def _component(name: str, kind: str, steps: tuple[StepRun, ...]) -> Json:
    """Return a node as a component: a model, data, or another file."""
    run = next((run for run in steps if run.node == name), None)
    component: Json = {"type": _type(kind), "bom-ref": f"node:{name}", "name": name}
    if run:
        component["version"] = run.key
        component["properties"] = [
            {"name": f"olivebuild:{label}", "value": value} for label, value in _properties(run)
        ]
    if kind in MODELS:
        approach = {"approach": {"type": "supervised"}} if kind == "adapter" else {}
        component["modelCard"] = {"modelParameters": approach}
    if kind == "dataset":
        component["data"] = [{"type": "dataset", "name": name}]
    return component


def _type(kind: str) -> str:
    if kind in MODELS:
        return "machine-learning-model"
    return "data" if kind == "dataset" else "file"


def _properties(run: StepRun) -> Iterator[tuple[str, str]]:
    yield "kind", run.kind
    yield from ((f"parameter:{label}", value) for label, value in run.values("parameter").items())
    yield from ((f"output:{name or '.'}", f"xxh3_128:{d}") for name, d in run.outputs.items())
    yield from ((f"numerics:{name}", str(value)) for name, value in run.numerics.items())


def _components(lineage: Lineage) -> Iterator[Json]:
    """Yield what the target was made from: nodes, sources, files and libraries."""
    runs = {run.node: run for run in lineage.steps}
    for run in lineage.steps:
        if run.node != lineage.target:
            yield _component(run.node, run.kind, lineage.steps) | _source(lineage, run.node)
    for node, files in lineage.read.items():
        if node not in runs and node != lineage.target:
            # A model that is used where it lies.
            model = _component(node, "model", lineage.steps)
            yield model | {"components": [_file(f, _file_ref(node, f)) for f in files]}
            continue
        for file in files:
            kind = {"type": "data", "data": [{"type": "dataset", "name": file.name}]}
            yield _file(file, _file_ref(node, file)) | (kind if _is_data(lineage, node) else {})
    for name, version in _libraries(lineage):
        purl = f"pkg:pypi/{name.lower()}@{version}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
        }


def _source(lineage: Lineage, node: str) -> Json:
    source = lineage.sources.get(node)
    if source is None:
        return {}
    reference = {"type": "distribution", "url": source.text, "comment": f"pinned to {source.pin}"}
    return {"externalReferences": [reference]}


def _dependencies(lineage: Lineage) -> Iterator[Json]:
    for run in lineage.steps:
        files = [_file_ref(run.node, file) for file in lineage.read.get(run.node, ())]
        libraries = [f"pkg:pypi/{n.lower()}@{v}" for n, v in run.values("library").items()]
        nodes = dict.fromkeys(f"node:{name}" for name in run.inputs.values())
        yield {
            "ref": f"node:{run.node}",
            "dependsOn": list(dict.fromkeys([*nodes, *files, *libraries])),
        }


def _libraries(lineage: Lineage) -> list[tuple[str, str]]:
    return sorted({item for run in lineage.steps for item in run.values("library").items()})


def _is_data(lineage: Lineage, node: str) -> bool:
    """Return whether the files that a node reads are rows of data."""
    run = next((run for run in lineage.steps if run.node == node), None)
    return run is not None and run.kind in ("dataset", "adapter")


def _file(file: DigestedFile, ref: str) -> Json:
    return {
        "type": "file",
        "bom-ref": ref,
        "name": file.name,
        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
    }


def _file_ref(node: str, file: DigestedFile) -> str:
    return f"file:{node}:{file.name}"


def _performance(target: str, benchmarks: Mapping[str, Metrics]) -> Iterator[Json]:
    """Yield what benchmarks measured of a target, by data set."""
    for benchmark, metrics in benchmarks.items():
        row = metrics.models.get(target)
        if row is None:
            continue
        for data, part in row.data.items():
            yield from _measured(part, f"{benchmark}: {data}")
        yield from _measured(row, benchmark)


def _measured(part: MetricSet, where: str) -> Iterator[Json]:
    for name in BY_NAME:
        value = part.metric(name)
        if value is None or value != value:
            continue
        measured: Json = {"type": name, "value": f"{value:g}", "slice": where}
        if interval := part.interval(name):
            low, high = interval
            measured["confidenceInterval"] = {
                "lowerBound": f"{low:g}",
                "upperBound": f"{high:g}",
            }
        yield measured
