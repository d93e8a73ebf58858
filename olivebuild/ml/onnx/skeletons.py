"""Skeletons of ONNX models, traced once for each structure, options and versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from olivebuild.api.job import Job
from olivebuild.core.errors import Damaged
from olivebuild.core.fs import trees
from olivebuild.core.host import installed
from olivebuild.ml.onnx.builder import BuilderFailed, canonical, check_loads, run_builder
from olivebuild.steps.onnx import STEP, OnnxFields

if TYPE_CHECKING:
    from olivebuild.cache.memo import Derived
    from olivebuild.ml.onnx.skeleton import Recipe, Skeleton
    from olivebuild.ml.weights.view import Weights


def no_skeleton(fields: OnnxFields, trust_remote_code: bool) -> str:
    """Why these options can't be built tensor by tensor; empty when they may be."""
    if (fields.algorithm or "").startswith("rtn"):
        return f"algorithm: {fields.algorithm} is not quantised tensor by tensor"
    if fields.qdq:
        return "qdq is not quantised tensor by tensor"
    if "Gather" in (fields.op_types or ()):
        return "op_types: Gather is not quantised tensor by tensor"
    return "the model brings code of its own" if trust_remote_code else ""


def known_recipes(job: Job, model: Weights) -> list[Recipe]:
    """How the `onnx` steps that will read this action's result make their tensors, as far as that
    is known.
    """
    from olivebuild.cache.memo import Derived

    recipes: dict[Recipe, None] = {}
    for kind, given in job.action.consumers:
        fields = OnnxFields.model_validate(given) if kind == "onnx" else None
        if fields and not no_skeleton(fields, job.input("model").trust_remote_code):
            found = _restore(
                job,
                Derived(job.store),
                _skeleton_key(fields, model),
                job.out.parent / f"skeleton{len(recipes)}",
            )
            recipes |= dict.fromkeys(found.tensors if found else ())
    return list(recipes)


def _skeleton_key(fields: OnnxFields, model: Weights) -> str:
    from olivebuild.core import hashing
    from olivebuild.ml.onnx.skeleton import VERSION

    versions = [[name, installed(name)] for name in STEP.libraries(fields)]
    options = fields.model_dump(mode="json", exclude={"model", "adapter", "source", "trust"})
    return hashing.of_json(
        ["onnx skeleton", VERSION, STEP.version, versions, options, model.structure()]
    )


def _restore(job: Job, derived: Derived, key: str, folder: Path) -> Skeleton | None:
    from olivebuild.ml.onnx.assemble import SKELETON
    from olivebuild.ml.onnx.skeleton import Skeleton

    for blobs in derived.get([key]).values():
        try:
            folder.mkdir()
            job.store.restore(job.store.manifest(blobs[0][0]), folder)
            return Skeleton.from_json((folder / SKELETON).read_bytes())
        except (Damaged, ValueError):
            trees.delete(job.out.parent, folder)
    return None


def skeleton_of(job: Job, fields: OnnxFields, model: Weights) -> tuple[Path, Skeleton]:
    """The skeleton for a model's structure, these options and the installed versions; and the
    folder with its files. Made if it is not known.
    """
    from olivebuild.cache.memo import Derived
    from olivebuild.ml.onnx.skeleton import Skeleton

    if because := no_skeleton(fields, job.input("model").trust_remote_code):
        return job.out, Skeleton(because=because)
    derived, folder = Derived(job.store), job.out.parent / "skeleton"
    key = _skeleton_key(fields, model)
    if known := _restore(job, derived, key, folder):
        return folder, known
    folder.mkdir()
    # The builder's quantiser and ours make something else of what is no number, which is not to be
    # held against all models of this structure.
    check_finite_input(job, model)
    skeleton = _trace(job, fields, model, folder)
    _, blob = job.store.put_folder(folder, job.out.parent)
    derived.put({key: ((blob, job.store.path(blob).stat().st_size),)})
    return folder, skeleton


def _trace(job: Job, fields: OnnxFields, model: Weights, folder: Path) -> Skeleton:
    """Make the skeleton in `folder`; one that says why, if it can't be had."""
    from olivebuild.ml.onnx.assemble import SKELETON
    from olivebuild.ml.onnx.skeleton import Skeleton
    from olivebuild.ml.onnx.trace import load_once, trace
    from olivebuild.ml.weights.errors import NotProvenEqual
    from olivebuild.ml.weights.lora import without_merges

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
        skeleton = Skeleton(because=str(e))
    except BuilderFailed as e:
        if not e.watched:
            raise
        skeleton = Skeleton(because=e.fact)
    if skeleton.because:
        trees.delete(job.out.parent, folder)
        folder.mkdir()
    else:
        canonical(folder, hollow)
        if fields.provider == "cpu" and not (fields.exclude_embeds or fields.exclude_lm_head):
            check_loads(job, lambda: load_once(folder, skeleton, job.out.parent / "once"))
    (folder / SKELETON).write_bytes(skeleton.to_json())
    trees.delete(job.out.parent, hollow)
    job.progress("tracing the model builder", 1, 1)
    return skeleton


def check_finite_input(job: Job, model: Weights) -> None:
    from olivebuild.ml.models.opened import check_finite

    given = job.input("model")
    check_finite(job.store, model, given.digest, given.target, job.where("model"))
