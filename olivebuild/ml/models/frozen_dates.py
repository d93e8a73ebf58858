"""`template_date: freeze`: the date in the chat templates of what is published, so that whoever
serves it asks as it was trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from olivebuild.formats import template_clock

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.ml.weights.view import Weights


def date_of(job: Job) -> str:
    """The date that is to be fixed; empty where templates stay the model's own."""
    how, _, date = job.action.template_date.partition(" ")
    return date if how == template_clock.FREEZE else ""


def in_weights(job: Job, model: Weights) -> Weights:
    """The model with its date fixed, where that is asked for."""
    from olivebuild.cache.tensor_locations import ByteRange
    from olivebuild.ml.weights.view import read_at

    if not (date := date_of(job)):
        return model
    files = []
    for name, found, place in model.files:
        if template_clock.holds_templates(name):
            before = read_at(place, 0, place.size)
            after = template_clock.fixed_file(name, before, date)
            if after != before:
                found = job.store.put_bytes(after)
                place = ByteRange(job.store.path(found), 0, len(after))
        files.append((name, found, place))
    return replace(model, files=tuple(files))


def in_folder(job: Job, folder: Path) -> None:
    """Fix the date in a folder's templates, where that is asked for."""
    if date := date_of(job):
        for name, before in template_clock.files_of(folder).items():
            after = template_clock.fixed_file(name, before, date)
            if after != before:
                (folder / name).write_bytes(after)
