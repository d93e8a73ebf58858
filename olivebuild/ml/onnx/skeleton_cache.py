"""Skeletons of ONNX models, traced once for each structure, options and versions."""

from __future__ import annotations

from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.cache.memo import Derived
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged
from olivebuild.core.fs import trees
from olivebuild.core.host import installed
from olivebuild.ml.models.opened import check_finite
from olivebuild.ml.onnx.assemble import SKELETON
from olivebuild.ml.onnx.builder import BuilderFailed, canonical, check_loads, run_builder
from olivebuild.ml.onnx.calibration.rounding import is_rounded
from olivebuild.ml.onnx.skeleton import VERSION, Skeleton, TensorRecipe
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.lora import without_merges
from olivebuild.ml.weights.view import Weights
from olivebuild.steps.onnx import CALIBRATION, STEP, OnnxFields

_NOT_IN_KEYS = {"model", "adapter", "source", "trust", *CALIBRATION}


def no_skeleton(fields: OnnxFields, trust_remote_code: bool) -> str:
    """Return why these options can't be built tensor by tensor; empty when they may be."""
    if (fields.algorithm or "").startswith("rtn"):
        return f"algorithm: {fields.algorithm} is not quantised tensor by tensor"
    if fields.qdq:
        return "qdq is not quantised tensor by tensor"
    if "Gather" in (fields.op_types or ()):
        return "op_types: Gather is not quantised tensor by tensor"
    return "the model brings code of its own" if trust_remote_code else ""


def known_recipes(job: Job, model: Weights) -> list[TensorRecipe]:
    """Return the recipes of the `onnx` steps that will read this action's result.

    Only those are known whose skeleton is stored.
    """
    recipes: dict[TensorRecipe, None] = {}
    for kind, values in job.action.consumers:
        fields = OnnxFields.model_validate(values) if kind == "onnx" else None
        if fields and not no_skeleton(fields, job.input("model").trust_remote_code):
            folder = job.out.parent / f"skeleton{len(recipes)}"
            key = _skeleton_key(fields.builder_fields, model)
            skeleton = _restore(job, Derived(job.store), key, folder)
            tensors = skeleton.tensors if skeleton else ()
            # What is rounded by moments waits for these.
            waits = fields.algorithm == "gptq"
            recipes |= dict.fromkeys(t for t in tensors if not (waits and is_rounded(t)))
    return list(recipes)


def _skeleton_key(fields: OnnxFields, model: Weights) -> str:
    """Return what a skeleton depends on: the model's structure, options, installed versions."""
    versions = [[name, installed(name)] for name in STEP.libraries(fields)]
    options = fields.model_dump(mode="json", exclude=_NOT_IN_KEYS)
    if fields.slots is None:
        # Left out, as before there were any.
        del options["slots"]
    return hashing.of_json(
        ["onnx skeleton", VERSION, STEP.version, versions, options, model.structure()]
    )


def insert_slots(job: Job, fields: OnnxFields, folder: Path, skeleton: Skeleton) -> None:
    """Put the slots for adapters that a recipe asks for into a model's graph. Raises InputError."""
    if fields.slots is not None:
        from olivebuild.ml.onnx.slots.insertion import insert

        rank = 0 if fields.provider == "cpu" else 1
        insert(folder, skeleton, fields.slots, rank=rank, where=job.where("slots"))


def _restore(job: Job, derived: Derived, key: str, folder: Path) -> Skeleton | None:
    """Restore a skeleton into `folder`; None where it is not stored, or not whole."""
    for blobs in derived.get([key]).values():
        try:
            folder.mkdir()
            job.store.restore(job.store.manifest(blobs[0][0]), folder)
            return Skeleton.from_json((folder / SKELETON).read_bytes())
        except (Damaged, ValueError):
            trees.delete(job.out.parent, folder)
    return None


def skeleton_of(job: Job, fields: OnnxFields, model: Weights) -> tuple[Path, Skeleton]:
    """Return a skeleton for a model's structure and these options, and the folder with its files.

    It is traced unless it is stored.
    """
    if reason := no_skeleton(fields, job.input("model").trust_remote_code):
        return job.out, Skeleton(fallback_reason=reason)
    derived, folder = Derived(job.store), job.out.parent / "skeleton"
    key = _skeleton_key(fields, model)
    if stored := _restore(job, derived, key, folder):
        return folder, stored
    folder.mkdir()
    # The builder's quantiser and ours turn NaN into different bytes, which must not be held against
    # all models of this structure.
    check_finite_input(job, model)
    skeleton = _trace(job, fields, model, folder)
    _, blob = job.store.put_folder(folder, job.out.parent)
    derived.put({key: ((blob, job.store.path(blob).stat().st_size),)})
    return folder, skeleton


def _trace(job: Job, fields: OnnxFields, model: Weights, folder: Path) -> Skeleton:
    """Make the skeleton in `folder`; one with a reason, where its bytes are not proven."""
    from olivebuild.ml.onnx.builder_trace import load_once, trace

    hollow = job.out.parent / "hollow"
    hollow.mkdir()
    job.progress("tracing the model builder", 0, 1)
    try:
        skeleton = trace(
            hollow,
            folder,
            without_merges(model),
            lambda: run_builder(job, fields, hollow, folder, trust=False),
        )
    except NotProvenEqual as e:
        skeleton = Skeleton(fallback_reason=str(e))
    except BuilderFailed as e:
        if not e.watched:
            raise
        skeleton = Skeleton(fallback_reason=e.fact)
    if skeleton.fallback_reason:
        trees.delete(job.out.parent, folder)
        folder.mkdir()
    else:
        canonical(folder, hollow)
        insert_slots(job, fields, folder, skeleton)
        if fields.provider == "cpu" and not (fields.exclude_embeds or fields.exclude_lm_head):
            check_loads(job, lambda: load_once(folder, skeleton, job.out.parent / "once"))
    (folder / SKELETON).write_bytes(skeleton.to_json())
    trees.delete(job.out.parent, hollow)
    job.progress("tracing the model builder", 1, 1)
    return skeleton


def check_finite_input(job: Job, model: Weights) -> None:
    """Raise InputError for weights that are NaN or infinite."""
    source = job.input("model")
    check_finite(job.store, model, source.digest, source.target, job.where("model"))
