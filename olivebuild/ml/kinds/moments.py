"""Second moments of the inputs of a model's matrices, collected on rows of a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.core.errors import InputError
from olivebuild.steps.moments import INPUTS
from olivebuild.steps.parts.sequences import DEFAULT_LENGTH

if TYPE_CHECKING:
    from olivebuild.ml.weights.view import Weights

FILE = "moments.safetensors"


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.ml.models.layered import Unlayered
    from olivebuild.ml.models.opened import check_inputs
    from olivebuild.ml.weights.inputs import as_folder
    from olivebuild.ml.weights.lora import open_input

    check_inputs(job)
    if job.input("model").trust_remote_code:
        raise InputError(
            "the model runs code of its own (trust_remote_code), which calibration does not run",
            where=job.where("algorithm"),
            hint="leave `algorithm` and `calibration` out",
        )
    model, folder = open_input(job.store, job.input("model")), as_folder(job, "model")
    rows, left_out = _rows(job, folder)
    try:
        _collect(job, model, folder, rows)
    except Unlayered as e:
        raise InputError(
            f"the model can't be calibrated: {e}",
            where=job.where("algorithm"),
            hint="leave `algorithm` and `calibration` out",
        ) from None
    tokens = sum(map(len, rows))
    if left_out:
        job.note(f"{len(rows)} rows at equal distances, {tokens} tokens; {left_out} left out")
    job.result = job.result._replace(metrics={"rows": len(rows), "tokens": tokens})


def _rows(job: Job, folder: Path) -> tuple[list[np.ndarray], int]:
    """Return the tokens of rows, prompts and answers, and how many rows are left out.

    Raises InputError where there are none.
    """
    from olivebuild.ml.data import end_tokens
    from olivebuild.ml.data.token_shards import token_rows
    from olivebuild.ml.data.tokens import Encoder
    from olivebuild.ml.models.load import load_tokenizer
    from olivebuild.ml.onnx.calibration.moments import chosen

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


def _collect(job: Job, weights: Weights, folder: Path, rows: list[np.ndarray]) -> None:
    """Store the moments as they come, a tensor a blob."""
    from olivebuild.ml.models.layered import LayeredModel
    from olivebuild.ml.onnx.calibration.moments import collect

    model = LayeredModel(weights, folder)
    names: dict[str, str] = {}
    header: dict[str, dict[str, object]] = {}
    runs: list[tuple[str, int]] = []
    end = 0
    for number, (layer_names, halves) in enumerate(collect(model, rows, job.out.parent)):
        job.progress("calibrating", number, len(model.layers) + 1)
        names |= layer_names
        for name, half in halves.items():
            data = half.tobytes()
            runs.append((job.store.put_bytes(data), len(data)))
            offsets = [end, end + len(data)]
            header[name] = {"dtype": "F32", "shape": list(half.shape), "data_offsets": offsets}
            end = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    text = len(text).to_bytes(8, "little") + text
    about = (json.dumps(names, indent=2, sort_keys=True) + "\n").encode()
    manifest = Manifest(
        (
            Entry.of_runs(INPUTS, [(job.store.put_bytes(about), len(about))]),
            Entry.of_runs(FILE, [(job.store.put_bytes(text), len(text)), *runs]),
        )
    )
    job.result = Result(manifest=job.store.put_manifest(manifest))
