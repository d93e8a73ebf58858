"""ONNX models: from a skeleton tensor by tensor, by the whole model builder, or imported."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.cache.manifest import Manifest
from olivebuild.core.errors import InputError, StepError, first_line
from olivebuild.core.fs import trees
from olivebuild.core.fs.small_files import read_json
from olivebuild.formats.source import Source
from olivebuild.formats.structure import adapter_slots
from olivebuild.ml.onnx.builder import (
    builder_options,
    canonical,
    check_loads,
    limit_length,
    load,
    run_builder,
)
from olivebuild.ml.onnx.skeleton_cache import check_finite_input, insert_slots, skeleton_of
from olivebuild.steps.onnx import OnnxFields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from olivebuild.ml.onnx.calibration.rounding import RoundingError
    from olivebuild.ml.onnx.skeleton import Skeleton
    from olivebuild.ml.weights.view import Weights


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    fields = job.fields(OnnxFields)
    if fields.source:
        import_folder(job, fields.source, trust=fields.trust)
    else:
        from olivebuild.ml.models.opened import check_inputs

        check_inputs(job)
        _build(job, fields)


def _build(job: Job, fields: OnnxFields) -> None:
    """Build from the skeleton, if there can be one; else by the model builder."""
    from olivebuild.ml.models import frozen_dates
    from olivebuild.ml.onnx.assemble import assemble
    from olivebuild.ml.onnx.calibration.rounding import Calibration, Tuned, figures, table, told
    from olivebuild.ml.onnx.proof_cache import proven_length
    from olivebuild.ml.weights.lora import open_input

    model = frozen_dates.in_weights(job, open_input(job.store, job.input("model")))
    calibrated, fields = fields.algorithm == "gptq", fields.builder_fields
    length = proven_length(job, fields, model)
    folder, skeleton = skeleton_of(job, fields, model)
    if skeleton.fallback_reason:
        _check_by_tensors(job, fields, skeleton.fallback_reason, calibrated=calibrated)
        job.note(f"built whole by the model builder: {skeleton.fallback_reason}")
        _build_whole(job, fields, model, skeleton.fallback_reason, length)
        return
    job.progress("quantising", 0, 1)
    limit_length(folder, length)
    rounder: Calibration | Tuned | None = None
    if "scales" in job.action.inputs:
        rounder = Tuned(job.store, open_input(job.store, job.input("scales")))
    elif calibrated:
        rounder = Calibration(job.store, open_input(job.store, job.input("moments")))
    with told(job):
        manifest, counts = assemble(job.store, job.out.parent, folder, skeleton, model, rounder)
    job.progress("quantising", 1, 1)
    if rounder:
        _tell_errors(job, rounder.errors)
    # The model builder rounds in no such way.
    audited = not rounder and _is_audited(job.action.key)
    if audited:
        _audit(job, fields, manifest, length, skeleton)
    if fields.slots is not None:
        # A declared output, which a build looks for where the step works.
        shutil.copyfile(folder / adapter_slots.NAME, job.out / adapter_slots.NAME)
    blob = job.store.put_manifest(manifest)
    job.result = Result(
        metrics={**counts, **(figures(rounder.errors) if rounder else {})},
        provenance={"by": "tensors", "audited": audited}
        | ({"rounding": table(rounder.errors)} if rounder else {}),
        manifest=blob,
    )


def _tell_errors(job: Job, errors: Mapping[str, RoundingError]) -> None:
    """Tell what rounding by moments is worth; the step's log has each matrix."""
    from olivebuild.ml.onnx.calibration.rounding import figures, table

    print("error as a share of what the matrix gives, that of the layout's own rounding")
    for name, (ours, plain, rows) in table(errors).items():
        kept = f"; {rows} rows keep that" if rows else ""
        print(f"{ours:.2e}  {plain:.2e}  {name}{kept}")
    found = figures(errors)
    better = sum(e.plain_rows for e in errors.values())
    job.note(
        f"rounding error {found['rounding_error']:.2e} on the calibration rows, "
        f"{found['rounding_error_plain']:.2e} without them; {better} of "
        f"{sum(e.rows for e in errors.values())} rows of matrices are better without"
    )


def _check_by_tensors(
    job: Job, fields: OnnxFields, fallback_reason: str, *, calibrated: bool
) -> None:
    """Raise InputError for what needs to know what is computed with what in a model."""
    if calibrated:
        raise InputError(
            f"algorithm: gptq needs a model that is built tensor by tensor: {fallback_reason}",
            where=job.where("algorithm"),
            hint="leave `algorithm` and `calibration` out",
        )
    if fields.slots is not None:
        raise InputError(
            f"`slots` need a model that is built tensor by tensor: {fallback_reason}",
            where=job.where("slots"),
            hint="leave `slots` out, and merge the adapter",
        )


def _is_audited(key: str) -> bool:
    """Return whether this build is compared with the whole builder's.

    OLIVEBUILD_AUDIT is the share of builds that are: by default 0, and 0.05 where CI is set.
    """
    share = os.environ.get("OLIVEBUILD_AUDIT") or ("0.05" if os.environ.get("CI") else "0")
    try:
        return int(key[:8] or "0", 16) / 16**8 < float(share)
    except ValueError:
        raise InputError(
            f"OLIVEBUILD_AUDIT is {share!r}, not a share", hint="a number from 0 to 1"
        ) from None


def _audit(
    job: Job, fields: OnnxFields, manifest: Manifest, length: int, skeleton: Skeleton
) -> None:
    """Raises StepError unless the model builder makes the same files."""
    from olivebuild.ml.models import frozen_dates
    from olivebuild.ml.weights.inputs import as_folder

    folder, theirs = as_folder(job, "model"), job.out.parent / "audit"
    job.note("comparing with the whole model builder")
    theirs.mkdir()
    run_builder(job, fields, folder, theirs, trust=False)
    canonical(theirs, folder)
    insert_slots(job, fields, theirs, skeleton)
    limit_length(theirs, length)
    frozen_dates.in_folder(job, theirs)
    names = {entry.name for entry in manifest.files} ^ {path.name for path in theirs.iterdir()}
    differing = sorted(
        names
        | {
            e.name
            for e in manifest.files
            if e.name not in names and e.digest_of(theirs / e.name) != e.digest
        }
    )
    trees.delete(job.out.parent, theirs)
    if differing:
        hint = (
            "please report it; `olivebuild verify --repair` and OLIVEBUILD_AUDIT=1 show whether it "
            "comes again"
        )
        raise StepError(
            f"built tensor by tensor, {differing[0]} is not what the model builder makes",
            where=job.where(),
            hint=hint,
        )


def _build_whole(
    job: Job, fields: OnnxFields, model: Weights, fallback_reason: str, length: int
) -> None:
    from olivebuild.ml.models import frozen_dates
    from olivebuild.ml.onnx.trial import not_finite, try_out
    from olivebuild.ml.weights.inputs import as_folder

    folder = as_folder(job, "model")
    check_finite_input(job, model)
    run_builder(job, fields, folder, job.out, trust=job.input("model").trust_remote_code)
    if name := not_finite(job.out / "model.onnx"):
        hint = (
            "its weights hold no finite numbers, or such as that precision has not; precision: "
            "bf16 "
            "or fp32 has the range of bfloat16"
        )
        raise InputError(
            f"{name} comes out as infinite or not a number in {fields.precision}",
            where=job.where("precision"),
            hint=hint,
        )
    canonical(job.out, folder)
    limit_length(job.out, length)
    if fields.provider == "cpu" and not (fields.exclude_embeds or fields.exclude_lm_head):
        check_loads(job, lambda: load(job.out))
        if fault := try_out(job.out):
            hint = "another precision, or another version of onnxruntime-genai, may do better"
            raise StepError(
                f"the model builder made a model that does not work: {fault}",
                where=job.where(),
                hint=hint,
            )
    frozen_dates.in_folder(job, job.out)
    job.result = Result(
        provenance={
            "by": "onnxruntime-genai",
            "because": fallback_reason,
            "builder_options": dict(builder_options(fields)),
        }
    )


def import_folder(job: Job, source: Source, *, trust: bool) -> None:
    """Store an ONNX folder's files, checked: code and libraries in it only with trust."""
    from olivebuild.formats import imported, onnx_folder
    from olivebuild.ml.models.fetch import fetch

    where = job.where("source")
    folder = fetch(
        job,
        source,
        also=(*onnx_folder.READ, *onnx_folder.DATA),
        look=lambda folder: imported.check(folder, "onnx", where, trust=trust),
    )
    if not (folder / "genai_config.json").is_file():
        hint = "it should be a folder that onnxruntime-genai loads"
        raise InputError("genai_config.json is missing", where=str(folder), hint=hint)
    try:
        names, left = onnx_folder.taken(folder, everything=trust)
        # What is trusted may lie elsewhere; the runtime will tell.
        missing = [] if trust else sorted(onnx_folder.weights_in(folder) - set(names))
    except (ValueError, OSError) as e:
        raise InputError(
            f"a graph can't be read: {e}", where=where, hint="is the download complete?"
        ) from None
    if missing:
        raise InputError(
            f"the weights in {missing[0]} are not there",
            where=where,
            hint="is the download complete?",
        )
    if left:
        job.note(
            "left out, since onnxruntime-genai reads no such files: "
            f"{', '.join(left[:5])}{' ...' if len(left) > 5 else ''}"
        )
    for name in names:
        (job.out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, job.out / name)
    _open_brought(job, trust=trust)


def _names_provider(part: object) -> bool:
    """Return whether a part of a model has a provider of its own.

    It may not be there to open it.
    """
    options = part.get("session_options") if isinstance(part, dict) else None
    return isinstance(options, dict) and bool(options.get("provider_options"))


def _open_brought(job: Job, *, trust: bool) -> None:
    """Open an ONNX folder that was brought.

    Raises InputError unless the files that genai_config.json names are there, and, for the
    processor, the runtime takes the model.
    """
    from olivebuild.ml.models.genai import open_model

    where, hint = job.where("source"), "it should be a folder that onnxruntime-genai loads"
    try:
        model = read_json(job.out / "genai_config.json")["model"]
        parts = [part for part in model.values() if isinstance(part, dict)]
        names = [part["filename"] for part in parts if isinstance(part.get("filename"), str)]
        parts += [
            stage
            for part in parts
            for stages in part.get("pipeline", ())
            for stage in stages.values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            "genai_config.json is not one of onnxruntime-genai", where=where, hint=hint
        ) from None
    if missing := [name for name in names if not (job.out / name).is_file()]:
        raise InputError(
            f"genai_config.json names {missing[0]}, which is not there", where=where, hint=hint
        )
    if any(_names_provider(part) for part in parts):
        return
    try:
        open_model(job.out, trust=trust)
    except ImportError:
        job.note("not opened: onnxruntime-genai is not installed")
    except RuntimeError as e:
        first = first_line(e).replace(str(job.out), "the model")
        raise InputError(
            f"onnxruntime-genai can't load the model: {first}", where=where, hint=hint
        ) from None
