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

if TYPE_CHECKING:
    from olivebuild.ml.weights.view import Weights

FILE = "moments.safetensors"


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.ml.models.layered import Unlayered
    from olivebuild.ml.models.opened import check_inputs
    from olivebuild.ml.onnx.calibration.rows import rows_of
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
    rows, left_out = rows_of(job, folder)
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


def _collect(job: Job, weights: Weights, folder: Path, rows: list[np.ndarray]) -> None:
    """Store the moments as they come, a tensor a blob."""
    from olivebuild.ml.models.layered import LayeredModel
    from olivebuild.ml.onnx.calibration.moments import collect
    from olivebuild.ml.weights.tensor_file import TensorFile

    model = LayeredModel(weights, folder)
    names: dict[str, str] = {}
    file = TensorFile(job.store)
    for number, (layer_names, halves) in enumerate(collect(model, rows, job.out.parent)):
        job.progress("calibrating", number, len(model.layers) + 1)
        names |= layer_names
        for name, half in halves.items():
            file.add(name, "F32", half.shape, half.tobytes())
    about = (json.dumps(names, indent=2, sort_keys=True) + "\n").encode()
    manifest = Manifest(
        (
            Entry.of_runs(INPUTS, [(job.store.put_bytes(about), len(about))]),
            file.entry(FILE),
        )
    )
    job.result = Result(manifest=job.store.put_manifest(manifest))
