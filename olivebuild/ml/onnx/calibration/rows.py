"""Rows of a data set by which weights are rounded, as tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.ml.data import end_tokens
from olivebuild.ml.data.token_shards import token_rows
from olivebuild.ml.data.tokens import Encoder
from olivebuild.ml.models.load import load_tokenizer
from olivebuild.ml.onnx.calibration.moments import chosen
from olivebuild.steps.parts.sequences import DEFAULT_LENGTH


def rows_of(job: Job, folder: Path) -> tuple[list[np.ndarray], int]:
    """Return the tokens of rows, prompts and answers, and how many rows are left out.

    Raises InputError where there are none.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code=False, date=job.action.template_date)
    encoder = Encoder(tokenizer, DEFAULT_LENGTH, end_tokens.ends_of(folder))
    encoder.where = job.where("calibration")
    rows = token_rows(job, encoder, str(folder), job.input("rows").path, "completion")
    numbers = chosen(rows.lengths)
    if not len(numbers):
        raise InputError(
            "no row of the calibration data has an answer within the model's tokens",
            where=job.where("calibration"),
            hint="name the rows that the model is trained on",
        )
    return [np.asarray(rows[int(i)].ids) for i in numbers], len(rows) - len(numbers)
