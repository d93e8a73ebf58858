"""Kinds of other packages that define `run` themselves instead of naming a runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from olivebuild.api.step import step_of

if TYPE_CHECKING:
    from olivebuild.api.job import Job


def run(job: Job) -> None:
    """Make the artifact in `job.out` by the `run` of its kind."""
    from olivebuild.ml.models.opened import check_inputs

    step = step_of(job.action.kind)
    assert step is not None
    check_inputs(job)
    step.run(job)
