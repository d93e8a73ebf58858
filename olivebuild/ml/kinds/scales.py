"""Weights of a model, rounded by GPTQ, and their scales tuned end to end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.core.errors import InputError
from olivebuild.steps.onnx import OnnxFields
from olivebuild.steps.scales import ERRORS, ScalesFields

if TYPE_CHECKING:
    from pathlib import Path

    from olivebuild.cache.memo import Blobs
    from olivebuild.ml.onnx.calibration.rounding import Calibration, RoundingError
    from olivebuild.ml.onnx.calibration.tuning import Matrix
    from olivebuild.ml.onnx.skeleton import TensorRecipe
    from olivebuild.ml.weights.view import Weights

FILE = "scales.safetensors"
HINT = "leave `tuning` out"


@dataclass(frozen=True)
class Rounded:
    """All quantised tensors of a conversion, by name_of."""

    recipes: dict[str, TensorRecipe]
    exact: list[TensorRecipe]
    """Those that are not quantised."""
    blobs: dict[str, Blobs]


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.ml.models import frozen_dates
    from olivebuild.ml.models.opened import check_inputs
    from olivebuild.ml.onnx.calibration.rounding import Calibration, told
    from olivebuild.ml.onnx.calibration.rows import rows_of
    from olivebuild.ml.onnx.calibration.tuning import Untunable
    from olivebuild.ml.weights.inputs import as_folder
    from olivebuild.ml.weights.lora import open_input

    check_inputs(job)
    weights = frozen_dates.in_weights(job, open_input(job.store, job.input("model")))
    folder = as_folder(job, "model")
    calibration = Calibration(job.store, open_input(job.store, job.input("moments")))
    with told(job):
        rounded = _rounded(job, weights, calibration)
    rows, _ = rows_of(job, folder)
    try:
        matrices = _tuned(job, folder, rounded, rows)
    except Untunable as e:
        raise InputError(
            f"{e} is computed in a way in which its scales can't be tuned",
            where=job.where("tuning"),
            hint=HINT,
        ) from None
    _store(job, rounded, matrices, weights, calibration)


def _rounded(job: Job, weights: Weights, calibration: Calibration) -> Rounded:
    """Round by moments what a conversion rounds so, and the rest as it does."""
    from olivebuild.ml.onnx.assemble import tensors_of
    from olivebuild.ml.onnx.calibration.rounding import is_rounded, name_of
    from olivebuild.ml.onnx.skeleton_cache import skeleton_of

    fields = OnnxFields.model_validate({"model": "model", **job.fields(ScalesFields).conversion})
    _, skeleton = skeleton_of(job, fields, weights)
    if skeleton.fallback_reason:
        raise InputError(
            f"algorithm: gptq needs a model that is built tensor by tensor: "
            f"{skeleton.fallback_reason}",
            where=job.where("algorithm"),
            hint="leave `algorithm` and `calibration` out",
        )
    job.progress("rounding", 0, 1)
    quantised = [recipe for recipe in skeleton.tensors if recipe.quantised]
    keys, blobs, _ = tensors_of(job.store, job.out.parent, quantised, weights, calibration)
    by_name, recipes, found = weights.by_name, {}, {}
    for key, recipe in zip(keys, quantised, strict=True):
        name = name_of(recipe, by_name)
        recipes[name], found[name] = recipe, blobs[key]
    if not any(is_rounded(recipe) for recipe in quantised):
        raise InputError(
            "no matrix is rounded to 4 bits, so there are no scales to tune",
            where=job.where("tuning"),
            hint=HINT,
        )
    job.progress("rounding", 1, 1)
    exact = [recipe for recipe in skeleton.tensors if not recipe.quantised]
    return Rounded(recipes, exact, found)


def _tuned(job: Job, folder: Path, rounded: Rounded, rows: list[np.ndarray]) -> dict[str, Matrix]:
    """Return the quantised tensors with their factors. Raises Untunable."""
    import torch

    from olivebuild.ml.models import load
    from olivebuild.ml.onnx.calibration.rounding import is_rounded
    from olivebuild.ml.onnx.calibration.tuning import Student, matrix_of, tune

    fields = job.fields(ScalesFields)
    device, _ = load.platform()
    load.seed_everything(fields.seed, device)
    # Differences of the two models are smaller than what bfloat16 can tell.
    model = load.load_model(folder, torch.float32, device, where=job.where("model"))
    model.requires_grad_(False)
    matrices = {}
    for key, recipe in rounded.recipes.items():
        assert recipe.quantised
        parts = [job.store.read(blob) if size else b"" for blob, size in rounded.blobs[key][:3]]
        k, n = recipe.view.shape
        matrices[key] = matrix_of(
            (parts[0], parts[1], parts[2]),
            (n, k),
            recipe.quantised,
            device,
            tuned=is_rounded(recipe),
        )
    looks_up = not fields.conversion.get("exclude_embeds")
    student = Student(model, rounded.recipes, rounded.exact, matrices, looks_up=looks_up)
    job.note(f"tuning scales on {device.type}: {fields.steps} steps of {fields.batch} rows")
    job.progress("tuning scales", 0, fields.steps)
    report = tune(
        student,
        rows,
        fields,
        lambda step: job.progress("tuning scales", step, fields.steps),
    )
    job.note(
        f"divergence from the model before rounding: {report.before:.2e} nats a token in the "
        f"first steps, {report.after:.2e} in the last"
    )
    job.result = Result(
        metrics={"divergence_before": report.before, "divergence_after": report.after}
    )
    return matrices


def _store(
    job: Job,
    rounded: Rounded,
    matrices: dict[str, Matrix],
    weights: Weights,
    calibration: Calibration,
) -> None:
    """Store what was rounded by moments, with tuned scales.

    A matrix keeps the scales that it had where tuned ones lose more, by moments, than rounding to
    the nearest does.
    """
    from olivebuild.ml.kernels.blockwise import narrow
    from olivebuild.ml.onnx.calibration.rounding import RoundingError, is_rounded, part_names
    from olivebuild.ml.weights.tensor_file import TensorFile

    file, by_name, kept = TensorFile(job.store), weights.by_name, 0
    errors: dict[str, RoundingError] = {}
    for key, recipe in rounded.recipes.items():
        if not is_rounded(recipe):
            continue
        assert recipe.quantised
        levels, before, zeros, about = (
            job.store.read(blob) if size else b"" for blob, size in rounded.blobs[key]
        )
        scales = matrices[key].scaled(0, len(matrices[key].scales)).detach().cpu().numpy()
        data = narrow(scales, recipe.quantised.scales).tobytes()
        error = RoundingError(**json.loads(about))
        found = calibration.error_of(recipe, by_name, (levels, data, zeros))
        if np.isfinite(scales).all() and found <= error.plain:
            errors[key] = error._replace(calibrated=found)
        else:
            data, kept, errors[key] = before, kept + 1, error
        names = part_names(key)
        file.add(names[0], "U8", [len(levels)], levels)
        file.add(names[1], recipe.quantised.scales, scales.shape, data)
        if zeros:
            file.add(names[2], "U8", [len(zeros)], zeros)
    if kept:
        job.note(
            f"{kept} of {len(errors)} matrices keep their scales: tuned, they would lose more than "
            "by rounding to the nearest"
        )
    text = json.dumps({k: e._asdict() for k, e in sorted(errors.items())}).encode()
    manifest = Manifest(
        (Entry.of_runs(ERRORS, [(job.store.put_bytes(text), len(text))]), file.entry(FILE))
    )
    job.result = job.result._replace(
        manifest=job.store.put_manifest(manifest),
        metrics={**job.result.metrics, "matrices": len(errors), "kept": kept},
    )
