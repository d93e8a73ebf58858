"""`template_date: freeze`: the date fixed in the chat templates of published models.

A server then asks as the model was trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.formats import template_clock
from olivebuild.ml.weights.view import Weights, read_at


def date_of(job: Job) -> str:
    """Return the date that is to be fixed; empty where templates stay the model's own."""
    how, _, date = job.action.template_date.partition(" ")
    return date if how == template_clock.FREEZE else ""


def in_weights(job: Job, model: Weights) -> Weights:
    """Return the model with its date fixed, where that is asked for."""
    if not (date := date_of(job)):
        return model
    files = []
    for name, digest, place in model.files:
        if template_clock.holds_templates(name):
            before = read_at(place, 0, place.size)
            after = template_clock.fixed_file(name, before, date)
            if after != before:
                digest = job.store.put_bytes(after)
                place = ByteRange(job.store.path(digest), 0, len(after))
        files.append((name, digest, place))
    return replace(model, files=tuple(files))


def in_folder(job: Job, folder: Path) -> None:
    """Fix the date in a folder's templates, where that is asked for."""
    if date := date_of(job):
        for name, before in template_clock.files_of(folder).items():
            after = template_clock.fixed_file(name, before, date)
            if after != before:
                (folder / name).write_bytes(after)
