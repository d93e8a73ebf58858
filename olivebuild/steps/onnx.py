"""An ONNX folder for onnxruntime-genai, made by its model builder or brought from elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from olivebuild import trees
from olivebuild.errors import Damaged, InputError, Problem, StepError, first_line
from olivebuild.job import Job
from olivebuild.machine import installed
from olivebuild.manifest import Manifest
from olivebuild.small_files import read_json
from olivebuild.sources import Source
from olivebuild.step import Edge, Fields, FileInput, Node, Ref, Result, Step, Target, step_of
from olivebuild.steps._builder import (
    LIBRARIES,
    BuilderFailed,
    builder_options,
    canonical,
    check_loads,
    limit_length,
    load,
    run_builder,
)

if TYPE_CHECKING:
    from olivebuild.derived import Derived
    from olivebuild.steps._recipes import Recipe, Skeleton
    from olivebuild.weights import Weights


class OnnxFields(Fields):
    """The builder's own options stand directly on the target; what is not given is the builder's
    default.

    https://github.com/microsoft/onnxruntime-genai/tree/main/src/python/py/models
    """

    model: Ref | None = None
    adapter: Ref | None = None
    source: Source | None = None
    trust: bool = False
    """What the folder's genai_config.json and graphs name may be loaded also where it is code: see
    onnx_folder.py.
    """
    precision: Literal["int4", "int8", "fp16", "fp32", "bf16"] = "int4"
    provider: Literal["cpu", "cuda", "dml", "webgpu"] = "cpu"
    algorithm: (
        Literal[
            "default",
            "rtn",
            "k_quant",
            "rtn_last",
            "k_quant_last",
            "k_quant_mixed",
            "k_quant_linear",
        ]
        | None
    ) = None
    block_size: Literal[16, 32, 64, 128, 256] | None = None
    accuracy_level: Literal[1, 2, 3, 4] | None = None
    symmetric: bool | None = None
    op_types: list[Literal["MatMul", "Gather"]] | None = None
    nodes_to_exclude: list[str] | None = None
    mixed_precision: str | None = None
    overrides: dict[str, Literal["int4", "int8"]] | None = None
    """Nodes of the float graph that get other bits; a `*` is the number of every layer."""
    exclude_embeds: bool | None = None
    exclude_lm_head: bool | None = None
    prune_lm_head: bool | None = None
    include_hidden_states: bool | None = None
    shared_embeddings: bool | None = None
    fuse_qkv: bool | None = None
    qdq: bool | None = None
    cuda_graph: bool | None = None
    dml_graph: bool | None = None
    webgpu_graph: bool | None = None
    webgpu_fp32: bool | None = None
    cuda_bf16: bool | None = None


_SAY_THE_SAME = ("mixed_precision", "nodes_to_exclude", "op_types")
"""What the builder forgets when it is given `overrides`."""
PRECISIONS = {
    "cpu": ("int4", "int8", "fp32"),
    "cuda": ("int4", "int8", "fp16", "bf16", "fp32"),
    "dml": ("int4", "fp16"),
    "webgpu": ("int4", "int8", "fp16"),
}


class Onnx(Step):
    kind = "onnx"
    version = 6
    changes: ClassVar = {
        5: "what is converted is compared with transformers, must be finite, and promises "
        "the length "
        "that works",
        6: "norms of Phi-2 and Nemotron are computed with the epsilon of their configuration, and "
        "LongRoPE is tried beyond any original context",
        7: "of a folder from elsewhere only the files are taken that onnxruntime-genai reads",
    }
    fields = OnnxFields
    summary = "an onnxruntime-genai folder: int4, int8, fp16, fp32 for cpu, cuda, dml, webgpu"
    ahead = ("olivebuild.steps._arrays", "olivebuild.steps._merge", "olivebuild.steps._assemble")

    def version_of(self, fields: OnnxFields) -> int:
        return 7 if fields.source else self.version

    def takes_gpu(self, fields: OnnxFields) -> bool:
        return fields.provider == "cuda"

    def computes(self, fields: OnnxFields) -> bool:
        return not fields.source

    def template(self, fields: OnnxFields) -> str:
        return "" if fields.source else "published"

    def shares_process(self, fields: OnnxFields) -> bool:
        return not fields.source and not self.takes_gpu(fields)

    def libraries(self, fields: OnnxFields) -> tuple[str, ...]:
        return () if fields.source else LIBRARIES

    def edges(self, fields: OnnxFields) -> list[Edge]:
        return (
            [Edge("model", fields.model, ("model", "merged"), field=("model",), by_tensors=True)]
            if fields.model
            else []
        )

    def files(self, fields: OnnxFields) -> list[FileInput]:
        source = fields.source
        return (
            [FileInput("source", source.name, ("source",))]
            if source and source.scheme == "file"
            else []
        )

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, OnnxFields)
        if fields.source:
            return {"trust": True} if fields.trust else {}
        return {
            n: v for n, v in super().parameters(fields).items() if n not in ("adapter", "trust")
        }

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        """With `adapter`, a merge that has no name of its own comes first."""
        fields = target.fields
        assert isinstance(fields, OnnxFields)
        if not (fields.adapter and fields.model):
            return super().nodes(target, targets)
        merged = step_of("merged")
        assert merged is not None
        inner = merged.fields.model_validate(
            {"model": str(fields.model), "adapter": str(fields.adapter)}
        )
        edge = Edge("model", Ref(target.name), (), field=("model",), part="merged", by_tensors=True)
        return [
            merged.node(f"{target.name}:merged", target.name, inner, merged.edges(inner)),
            self.node(target.name, target.name, fields, (edge,)),
        ]

    def check(self, fields: OnnxFields) -> Problem | None:
        if fields.source:
            extra = sorted(fields.model_fields_set - {"source", "trust"})
            if fields.source.scheme not in ("file", "hf"):
                return Problem("an ONNX model comes from a folder or hf:ID", "name one")
            if extra:
                return Problem(
                    f"`source` brings a finished ONNX folder, so {', '.join(extra)} has no meaning",
                    "leave it out",
                )
            return None
        if not fields.model:
            return Problem("it needs `model`, or `source`", "for example model: merged")
        if fields.precision not in PRECISIONS[fields.provider]:
            known = ", ".join(PRECISIONS[fields.provider])
            return Problem(
                f"{fields.precision} does not exist for {fields.provider}",
                f"precision: one of {known}",
            )
        if fields.overrides:
            beside = [name for name in _SAY_THE_SAME if getattr(fields, name) is not None]
            beside += (
                [f"algorithm: {fields.algorithm}"]
                if fields.algorithm not in (None, "default", "rtn", "k_quant")
                else []
            )
            if beside:
                return Problem(
                    f"the model builder takes {beside[0]} or overrides, not both", "leave one out"
                )
        return None

    def run(self, job: Job) -> None:
        fields = job.fields(OnnxFields)
        if fields.source:
            _bring(job, fields.source, trust=fields.trust)
        else:
            _build(job, fields)


def no_skeleton(fields: OnnxFields, trust_remote_code: bool) -> str:
    """Why these options can't be built tensor by tensor; empty when they may be."""
    if (fields.algorithm or "").startswith("rtn"):
        return f"algorithm: {fields.algorithm} is not quantised tensor by tensor"
    if fields.qdq:
        return "qdq is not quantised tensor by tensor"
    if "Gather" in (fields.op_types or ()):
        return "op_types: Gather is not quantised tensor by tensor"
    return "the model brings code of its own" if trust_remote_code else ""


def _build(job: Job, fields: OnnxFields) -> None:
    """From the skeleton, if there can be one; else by the model builder."""
    from olivebuild.steps import _frozen
    from olivebuild.steps._assemble import assemble
    from olivebuild.steps._merge import open_input
    from olivebuild.steps._proven import proven_length
    from olivebuild.steps._recipes import NotFinite

    model = _frozen.in_weights(job, open_input(job.store, job.input("model")))
    length = proven_length(job, fields, model)
    folder, skeleton = _skeleton(job, fields, model)
    if skeleton.because:
        job.note(f"built whole by the model builder: {skeleton.because}")
        _build_whole(job, fields, model, skeleton.because, length)
        return
    job.progress("quantising", 0, 1)
    limit_length(folder, length)
    try:
        manifest, counts = assemble(job.store, job.out.parent, folder, skeleton, model)
    except NotFinite as e:
        raise InputError(str(e), where=job.where("precision"), hint=e.hint) from None
    job.progress("quantising", 1, 1)
    audited = _is_audited(job.action.key)
    if audited:
        _audit(job, fields, manifest, length)
    blob = job.store.put_manifest(manifest)
    job.result = Result(
        metrics=dict(counts), provenance={"by": "tensors", "audited": audited}, manifest=blob
    )


def _is_audited(key: str) -> bool:
    """OLIVEBUILD_AUDIT is the share of builds that are compared with the whole builder's: by
    default 0, and 0.05 where CI is set.
    """
    share = os.environ.get("OLIVEBUILD_AUDIT") or ("0.05" if os.environ.get("CI") else "0")
    try:
        return int(key[:8] or "0", 16) / 16**8 < float(share)
    except ValueError:
        raise InputError(
            f"OLIVEBUILD_AUDIT is {share!r}, not a share", hint="a number from 0 to 1"
        ) from None


def _audit(job: Job, fields: OnnxFields, manifest: Manifest, length: int) -> None:
    """Raises StepError unless the model builder makes the same files."""
    from olivebuild.steps import _frozen
    from olivebuild.steps._inputs import as_folder

    folder, theirs = as_folder(job, "model"), job.out.parent / "audit"
    job.note("comparing with the whole model builder")
    theirs.mkdir()
    run_builder(job, fields, folder, theirs, trust=False)
    canonical(theirs, folder)
    limit_length(theirs, length)
    _frozen.in_folder(job, theirs)
    names = {entry.name for entry in manifest.files} ^ {path.name for path in theirs.iterdir()}
    odd = sorted(
        names
        | {
            e.name
            for e in manifest.files
            if e.name not in names and e.digest_of(theirs / e.name) != e.digest
        }
    )
    trees.delete(job.out.parent, theirs)
    if odd:
        hint = (
            "please report it; `olivebuild verify --repair` and OLIVEBUILD_AUDIT=1 show whether it "
            "comes again"
        )
        raise StepError(
            f"built tensor by tensor, {odd[0]} is not what the model builder makes",
            where=job.where(),
            hint=hint,
        )


def known_recipes(job: Job, model: Weights) -> list[Recipe]:
    """How the `onnx` steps that will read this action's result make their tensors, as far as that
    is known.
    """
    from olivebuild.derived import Derived

    recipes: dict[Recipe, None] = {}
    for kind, given in job.action.readers:
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
    from olivebuild import digest
    from olivebuild.steps._recipes import VERSION

    versions = [[name, installed(name)] for name in STEP.libraries(fields)]
    options = fields.model_dump(mode="json", exclude={"model", "adapter", "source", "trust"})
    return digest.of_json(
        ["onnx skeleton", VERSION, STEP.version, versions, options, model.structure()]
    )


def _restore(job: Job, derived: Derived, key: str, folder: Path) -> Skeleton | None:
    from olivebuild.steps._assemble import SKELETON
    from olivebuild.steps._recipes import Skeleton

    for blobs in derived.get([key]).values():
        try:
            folder.mkdir()
            job.store.restore(job.store.manifest(blobs[0][0]), folder)
            return Skeleton.from_json((folder / SKELETON).read_bytes())
        except (Damaged, ValueError):
            trees.delete(job.out.parent, folder)
    return None


def _skeleton(job: Job, fields: OnnxFields, model: Weights) -> tuple[Path, Skeleton]:
    """The skeleton for a model's structure, these options and the installed versions; and the
    folder with its files. Made if it is not known.
    """
    from olivebuild.derived import Derived
    from olivebuild.steps._recipes import Skeleton

    if because := no_skeleton(fields, job.input("model").trust_remote_code):
        return job.out, Skeleton(because=because)
    derived, folder = Derived(job.store), job.out.parent / "skeleton"
    key = _skeleton_key(fields, model)
    if known := _restore(job, derived, key, folder):
        return folder, known
    folder.mkdir()
    # The builder's quantiser and ours make something else of what is no number, which is not to be
    # held against all models of this structure.
    _check_finite(job, model)
    skeleton = _trace(job, fields, model, folder)
    _, blob = job.store.put_folder(folder, job.out.parent)
    derived.put({key: ((blob, job.store.path(blob).stat().st_size),)})
    return folder, skeleton


def _trace(job: Job, fields: OnnxFields, model: Weights, folder: Path) -> Skeleton:
    """Make the skeleton in `folder`; one that says why, if it can't be had."""
    from olivebuild.steps._assemble import SKELETON
    from olivebuild.steps._merge import Unproven, without_merges
    from olivebuild.steps._recipes import Skeleton
    from olivebuild.steps._trace import load_once, trace

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
    except Unproven as e:
        skeleton = Skeleton(because=str(e))
    except BuilderFailed as e:
        if not e.watched:
            raise
        skeleton = Skeleton(because=e.fact)
    except (AttributeError, TypeError, LookupError, AssertionError, RuntimeError, ValueError) as e:
        # The private parts of the builder that are leant on may be other ones in another version.
        skeleton = Skeleton(
            because=f"the model builder is not the one that is known: {type(e).__name__}: "
            f"{str(e)[:200]}"
        )
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


def _check_finite(job: Job, model: Weights) -> None:
    from olivebuild.steps._opened import check_finite

    given = job.input("model")
    check_finite(job.store, model, given.digest, given.target, job.where("model"))


def _build_whole(job: Job, fields: OnnxFields, model: Weights, because: str, length: int) -> None:
    from olivebuild.steps import _frozen
    from olivebuild.steps._inputs import as_folder
    from olivebuild.steps._trial import not_finite, try_out

    folder = as_folder(job, "model")
    _check_finite(job, model)
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
    _frozen.in_folder(job, job.out)
    job.result = Result(
        provenance={
            "by": "onnxruntime-genai",
            "because": because,
            "builder_options": dict(builder_options(fields)),
        }
    )


def _bring(job: Job, source: Source, *, trust: bool) -> None:
    from olivebuild import brought, onnx_folder
    from olivebuild.steps._fetch import fetch

    where = job.where("source")
    folder = fetch(
        job,
        source,
        also=(*onnx_folder.READ, *onnx_folder.DATA),
        look=lambda folder: brought.check(folder, "onnx", where, trust=trust),
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


def _open_brought(job: Job, *, trust: bool) -> None:
    """Raises InputError unless the files that genai_config.json names are there, and, for the
    processor, the runtime takes the model.
    """
    from olivebuild.steps._genai import open_model

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
    if any(
        part.get("session_options", {}).get("provider_options")
        for part in parts
        if isinstance(part, dict)
    ):
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


STEP = Onnx()
