"""Structures and sizes of models, in the order of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import to_builtins

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.fs.files import files_below
from olivebuild.formats.structure.model import structure_of


def run(job: Job) -> None:
    """Make the artifact in `job.out`. Raises InputError for a model that can't be read."""
    models = [job.input(role) for role in job.roles("model")]
    structures = [
        structure_of(Path(model.folder), model.digest, trust=model.trust_remote_code)
        for model in models
    ]
    sizes = [sum(p.stat().st_size for p in files_below(Path(m.folder))) for m in models]
    for name, value in (("structure", to_builtins(structures)), ("sizes", sizes)):
        (job.out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    job.result = Result()
