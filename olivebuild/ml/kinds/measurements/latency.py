"""Latency, memory and energy of models, measured in turns."""

from __future__ import annotations

import json
import time
from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core.fs.small_files import read_json
from olivebuild.metrics.pace import busy_machine
from olivebuild.steps.measurements.latency import LatencyFields


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.ml.benchmark.latency import measure
    from olivebuild.ml.kinds.measurements.structure import adapters_of
    from olivebuild.ml.models.opened import check_inputs

    fields = job.fields(LatencyFields)
    check_inputs(job)

    def progress(done: int, total: int) -> None:
        job.progress("measuring", done, total)

    started = time.time()
    structures = read_json(Path(job.input("structure").path))
    models = [job.input(role) for role in job.roles("model")]
    adapters = [a.folder if a else "" for a in adapters_of(job)]
    models = [
        model._replace(target=a.target) if a else model
        for model, a in zip(models, adapters_of(job), strict=True)
    ]
    result = measure(models, fields, progress, structures, adapters)
    measured = [row for row in result["models"] if "same_structure_as" not in row]
    if not result["latency"]["interleaved"] and len(measured) > 1:
        job.note(
            "memory does not hold all models at once: each was measured alone, so that what "
            "the machine did meanwhile counts"
        )
    if busy := result["latency"]["busy"]:
        job.note(f"{busy_machine(busy)}; the next models are measured once more")
    (job.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    provenance: dict[str, object] = {"made_at": started}
    if result["latency"]["busy"]:
        # It is not carried over to models of another content.
        used = [a.digest for a in adapters_of(job) if a]
        provenance["only_for"] = [[*(model.digest for model in models), *used]]
    job.result = Result(metrics=result, provenance=provenance)
