"""Proofs of conversions on miniatures, stored by configuration, options and versions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from olivebuild.api.job import Job
from olivebuild.cache.memo import Derived
from olivebuild.core import hashing
from olivebuild.core.errors import StepError, first_line
from olivebuild.core.host import installed
from olivebuild.ml.onnx.builder import run_builder
from olivebuild.ml.onnx.trial import VERSION, Proof
from olivebuild.ml.weights.view import Weights
from olivebuild.steps.onnx import CALIBRATION, LIBRARIES, OnnxFields

TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
NOT_OF_MINIATURES = (
    "model",
    "adapter",
    "overrides",
    "nodes_to_exclude",
    "mixed_precision",
    "exclude_embeds",
    "exclude_lm_head",
)
"""Options that name nodes of the model, or leave out what the runtime needs."""


def proven_length(job: Job, fields: OnnxFields, model: Weights) -> int:
    """Return the length up to which the runtime computes what transformers computes.

    0 where no limit is known. Raises StepError where the runtime never does.
    """
    config = model.file("config.json")
    if job.input("model").trust_remote_code:
        job.note("not compared with transformers: the model brings code of its own")
        return 0
    dtypes = {w.dtype for w in model.by_name.values()}
    dtype = TORCH_NAMES.get(dtypes.pop(), "bfloat16") if len(dtypes) == 1 else "bfloat16"
    general = fields.model_copy(update=dict.fromkeys(NOT_OF_MINIATURES))
    proof = _stored_proof(
        job,
        ["of options", general.model_dump(mode="json", exclude=set(CALIBRATION)), config, dtype],
        lambda: _compare(job, general, config, dtype),
    )
    if proof.wrong:
        architecture = next(iter(config.get("architectures") or [config.get("model_type")]))
        fact = (
            f"a small {architecture} converted to {fields.precision} does not compute what "
            f"transformers computes: {proof.wrong}"
        )
        hint = _hint(proof, fields.precision, dtype)
        raise StepError(fact, where=job.where("model"), hint=hint)
    if proof.untried:
        job.note(f"not compared with transformers: {proof.untried}")
    if proof.length:
        job.note(
            f"genai_config.json promises {proof.length:,} tokens, prompt and answer together: "
            f"beyond that, {proof.fault}"
        )
    return proof.length


def _hint(proof: Proof, precision: str, dtype: str) -> str:
    """Return what to do about a wrong computation of weights in `dtype`."""
    genai = installed("onnxruntime-genai")
    if precision == "fp32" and proof.inexact:
        return (
            f"onnxruntime-genai {genai} computes this architecture less exactly than float32; "
            "precision: int4 or int8 is possible"
        )
    if precision == "fp32" and dtype != "float32" and not proof.broken:
        return (
            f"onnxruntime-genai {genai} rounds what it computes from {dtype} weights: use "
            "precision: int4 or int8, or a base in float32"
        )
    return (
        f"onnxruntime-genai {genai} makes another computation of it; another version may be right"
    )


def _compare(job: Job, fields: OnnxFields, config: dict[str, Any], dtype: str) -> Proof:
    """Compare the architecture in float32 at all lengths that matter, then these options.

    The options are tried on weights of `dtype`, where they run here.
    """
    from olivebuild.ml.onnx.miniature import Miniature, Untried
    from olivebuild.ml.onnx.miniature_proof import prove

    try:
        mini = Miniature.of(config, max(64, fields.block_size or 0))
    except Untried as e:
        return Proof(untried=str(e))

    def tried(fields: OnnxFields, dtype: str, *, exact: bool) -> Proof:
        job.progress("comparing with transformers", 0, 1)
        try:
            return prove(
                mini,
                job.out.parent / "miniature",
                lambda a, b: run_builder(job, fields, a, b, trust=False),
                fields.precision,
                dtype,
                exact=exact,
            )
        except Exception as e:  # noqa: BLE001
            # The builder refuses the model itself as well, and then its refusal is reported.
            return Proof(untried=f"{type(e).__name__}: {first_line(e, 200)}")

    plain = type(fields)(precision="fp32", provider="cpu")
    proof = _stored_proof(
        job,
        ["of architecture", mini.config, mini.boundaries],
        lambda: tried(plain, "float32", exact=True),
    )
    if proof.wrong or proof.untried or fields.provider != "cpu":
        return replace(proof, broken=bool(proof.wrong))
    of_options = tried(fields, dtype, exact=False)
    return replace(proof, wrong=of_options.wrong, untried=of_options.untried)


def _stored_proof(job: Job, about: list[object], prove: Callable[[], Proof]) -> Proof:
    """Return the stored proof of `about`, or `prove` and store it."""
    derived, versions = Derived(job.store), [[name, installed(name)] for name in LIBRARIES]
    key = hashing.of_json(["onnx proof", VERSION, versions, about])
    if (text := derived.read(key)) is not None:
        with contextlib.suppress(ValueError):
            return Proof.from_json(text)
    proof = prove()
    if not proof.untried:
        derived.write(key, proof.to_json())
    return proof
