"""Data files of a folder or a hub's repository, as a data set's fields choose them."""

from __future__ import annotations

from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.data import folders
from olivebuild.data.readers import READERS
from olivebuild.steps.dataset import DatasetFields


def data_files(folder: Path, job: Job, fields: DatasetFields) -> list[Path]:
    """Return the data files of a folder; where some have `train` in their names, those only.

    With `subset` or `split` those that the folder's card or, without one, their paths name.
    """
    files = folders.data_files_in(folder)
    if not files:
        raise InputError(
            "there are no data files in this folder",
            where=job.where("source"),
            hint=f"read are {', '.join(READERS)}",
        )
    if fields.subset is None and fields.split is None:
        return folders.of_train(files, folder, job.note)
    try:
        return folders.chosen(folder, fields.subset, fields.split)
    except InputError as e:
        e.where = job.where("split" if fields.split is not None else "subset")
        raise
