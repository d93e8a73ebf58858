"""Structures and sizes of models, in the order of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from msgspec import to_builtins

from olivebuild.api.action import ActionInput
from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core import hashing
from olivebuild.core.fs.files import files_below
from olivebuild.core.fs.small_files import read_json
from olivebuild.formats.structure.model import Structure, structure_of


def run(job: Job) -> None:
    """Make the artifact in `job.out`. Raises InputError for a model that can't be read."""
    models = [job.input(role) for role in job.roles("model")]
    adapters = adapters_of(job)
    structures = [
        structure_of(Path(model.folder), model.digest, trust=model.trust_remote_code)
        for model in models
    ]
    structures = [
        _with_adapter(structure, Path(adapter.folder)) if adapter else structure
        for structure, adapter in zip(structures, adapters, strict=True)
    ]
    sizes = [
        sum(_size(Path(part.folder)) for part in (model, adapter) if part)
        for model, adapter in zip(models, adapters, strict=True)
    ]
    for name, value in (("structure", to_builtins(structures)), ("sizes", sizes)):
        (job.out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    job.result = Result()


def adapters_of(job: Job) -> list[ActionInput | None]:
    """Return for each model of an action the adapter in its slots, if there is one."""
    roles = [role.replace("model", "adapter") for role in job.roles("model")]
    return [job.action.inputs.get(role) for role in roles]


def _with_adapter(structure: Structure, adapter: Path) -> Structure:
    """Return the structure of a model with an adapter: modules and ranks, not values."""
    contents = read_json(adapter / "adapter.json")
    return msgspec.structs.replace(structure, graph=hashing.of_json([structure.graph, contents]))


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in files_below(folder))
