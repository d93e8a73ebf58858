"""The work of pinning.

It tells what a remote source stands for today, and brings a model's small files, or rows.
"""

from __future__ import annotations

from olivebuild.api.job import Job
from olivebuild.api.result import Result
from olivebuild.api.step import step_of
from olivebuild.ml.models import fetch


def run(job: Job) -> None:
    step = step_of(job.action.kind)
    assert step
    source = step.source(job.fields(step.fields))
    assert source
    if job.action.task == "look":
        rows = job.action.kind == "dataset"
        folder = fetch.fetch(job, source, dataset=True) if rows else fetch.look_at(job, source)
        job.result = Result(provenance={"folder": str(folder)})
    else:
        job.result = Result(provenance={"pin": fetch.pin(job, source)})
