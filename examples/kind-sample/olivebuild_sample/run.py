"""The work of the kind `sample`, imported in a worker process only."""

from __future__ import annotations

import random

from olivebuild.api.job import Job
from olivebuild.core.errors import StepError
from olivebuild_sample.step import SampleFields


def run(job: Job) -> None:
    """Write `rows.txt` into `job.out`.

    Raises StepError where the file has fewer lines than are wanted.
    """
    fields = job.fields(SampleFields)
    [file] = job.files("file")
    lines = file.read_text("utf-8").splitlines()
    if len(lines) < fields.lines:
        raise StepError(
            f"{file.name} has {len(lines)} lines, and {fields.lines} are to be drawn",
            where=job.where("lines"),
            hint="draw fewer lines",
        )
    drawn = sorted(random.Random(fields.seed).sample(range(len(lines)), fields.lines))
    (job.out / "rows.txt").write_text("".join(f"{lines[i]}\n" for i in drawn), "utf-8")
    job.note(f"{fields.lines} of {len(lines)} lines drawn")
