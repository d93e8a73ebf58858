"""A lineage as an in-toto statement with SLSA provenance.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from olivebuild import __version__
from olivebuild.engine.provenance.lineage import DigestedFile, Lineage, PinnedSource, StepRun

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:olivebuild:build:v1"
BUILDER = "urn:olivebuild:local"
"""The builder is the machine of whoever signs: nobody else vouches for it."""
SHA256, COMMIT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")

Json = dict[str, Any]


def statement(lineage: Lineage) -> Json:
    """Return the statement about a target's files."""
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": f"{lineage.target}/{file.name}", "digest": {"sha256": file.sha256}}
            for file in lineage.files
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": lineage.recipe.name, "target": lineage.target},
                "internalParameters": {"steps": [_step(run) for run in lineage.steps]},
                "resolvedDependencies": list(_dependencies(lineage)),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"olivebuild": __version__}},
                "metadata": _metadata(lineage),
            },
        },
    }


def _metadata(lineage: Lineage) -> Json:
    if not lineage.steps:
        return {}
    run = lineage.last
    metadata = {"invocationId": run.key}
    return metadata | ({"finishedOn": run.finished} if run.finished else {})


def _step(run: StepRun) -> Json:
    return {
        "name": run.node,
        "kind": run.kind,
        "key": run.key,
        "version": run.values("step").get("version", ""),
        "parameters": run.values("parameter"),
        "inputs": dict(run.inputs),
        "outputs": {name or ".": f"xxh3_128:{digest}" for name, digest in run.outputs.items()},
        "libraries": run.values("library"),
        "numerics": dict(run.numerics),
        "seconds": run.seconds,
    }


def _dependencies(lineage: Lineage) -> Iterator[Json]:
    """Yield the recipe and its lock file, all files that steps read, sources and libraries."""
    yield _file(lineage.recipe, "recipe")
    if lineage.lock:
        yield _file(lineage.lock, "lock file")
    for node, source in lineage.sources.items():
        yield from _source(node, source)
    for node, files in lineage.read.items():
        for file in files:
            yield _file(file, node)
    libraries = {item for run in lineage.steps for item in run.values("library").items()}
    for name, version in sorted(libraries):
        yield {"name": name, "uri": f"pkg:pypi/{name}@{version}"}


def _file(file: DigestedFile, used_by: str) -> Json:
    return {
        "name": file.name,
        "digest": {"sha256": file.sha256},
        "annotations": {"used_by": used_by},
    }


def _source(node: str, source: PinnedSource) -> Iterator[Json]:
    digest = {}
    if COMMIT.fullmatch(source.pin):
        digest = {"gitCommit": source.pin}
    elif SHA256.fullmatch(source.pin.partition("!")[0]):
        digest = {"sha256": source.pin.partition("!")[0]}
    yield {
        "name": node,
        "uri": source.text,
        **({"digest": digest} if digest else {}),
        "annotations": {"pin": source.pin, "used_by": node},
    }
    for name, sha256 in source.files.items():
        yield {
            "name": name,
            "uri": source.text,
            "digest": {"sha256": sha256},
            "annotations": {"used_by": node},
        }


def text(lineage: Lineage) -> str:
    """Return the statement as JSON."""
    return json.dumps(statement(lineage), indent=2, ensure_ascii=False) + "\n"
