"""Latency, memory and energy of models, measured in turns."""

from __future__ import annotations

import json

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.steps.benchmark_latency import LatencyFields


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.ml.benchmark.latency import measure
    from olivebuild.ml.models.opened import check_inputs

    check_inputs(job)

    def progress(done: int, total: int) -> None:
        job.progress("measuring", done, total)

    result = measure(
        [job.input(role) for role in job.roles("model")], job.fields(LatencyFields), progress
    )
    if not result["latency"]["interleaved"] and len(result["models"]) > 1:
        job.note(
            "memory does not hold all models at once: each was measured alone, so that what "
            "the machine did meanwhile counts"
        )
    (job.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    job.result = Result(metrics=result)
