"""What is proven of a conversion on miniatures of its architecture, once for a configuration,
options and versions; and kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import StepError, first_line
from olivebuild.core.host import installed
from olivebuild.ml.onnx.builder import run_builder
from olivebuild.steps.onnx import LIBRARIES

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.ml.onnx.trial import Proof
    from olivebuild.ml.weights.view import Weights
    from olivebuild.steps.onnx import OnnxFields


def proven_length(job: Job, fields: OnnxFields, model: Weights) -> int:
    """The length up to which the runtime computes what transformers computes, 0 where no limit is
    known. Raises StepError where it never does.

    Found on miniatures, once for a configuration, the options and the installed versions; and kept.
    """
    given = model.file("config.json")
    if job.input("model").trust_remote_code:
        job.note("not compared with transformers: the model brings code of its own")
        return 0
    kinds = {w.dtype for w in model.by_name.values()}
    dtype = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}.get(
        kinds.pop() if len(kinds) == 1 else "BF16", "bfloat16"
    )
    # Options that name nodes of the model, or leave out what the runtime needs, mean nothing to a
    # miniature.
    without = dict.fromkeys(
        (
            "model",
            "adapter",
            "overrides",
            "nodes_to_exclude",
            "mixed_precision",
            "exclude_embeds",
            "exclude_lm_head",
        )
    )
    own = fields.model_copy(update=without)
    proof = _kept_proof(
        job,
        ["of options", own.model_dump(mode="json"), given, dtype],
        lambda: _compare(job, own, given, dtype),
    )
    if proof.wrong:
        what, genai = (
            next(iter(given.get("architectures") or [given.get("model_type")])),
            installed("onnxruntime-genai"),
        )
        hint = (
            f"onnxruntime-genai {genai} makes another computation of it; another version may "
            "be right"
        )
        if fields.precision == "fp32" and proof.inexact:
            hint = (
                f"onnxruntime-genai {genai} computes this architecture less exactly than float32; "
                "precision: int4 or int8 is possible"
            )
        elif fields.precision == "fp32" and dtype != "float32" and not proof.broken:
            hint = (
                f"onnxruntime-genai {genai} rounds what it computes from {dtype} weights: use "
                "precision: int4 or int8, or a base in float32"
            )
        fact = (
            f"a small {what} converted to {fields.precision} does not compute what transformers "
            f"computes: {proof.wrong}"
        )
        raise StepError(fact, where=job.where("model"), hint=hint)
    if proof.untried:
        job.note(f"not compared with transformers: {proof.untried}")
    if proof.length:
        job.note(
            f"genai_config.json promises {proof.length:,} tokens, prompt and answer together: "
            f"beyond that, {proof.fault}"
        )
    return proof.length


def _compare(job: Job, fields: OnnxFields, config: dict[str, Any], dtype: str) -> Proof:
    """The architecture in float32 at all lengths that matter, then these options on weights of that
    type, where they run here.
    """
    from olivebuild.ml.onnx.proof import Miniature, Untried, prove
    from olivebuild.ml.onnx.trial import Proof

    try:
        mini = Miniature.of(config, max(64, fields.block_size or 0))
    except Untried as e:
        return Proof(untried=str(e))

    def tried(fields: OnnxFields, dtype: str, *, exact: bool) -> Proof:
        job.progress("comparing with transformers", 0, 1)
        place = job.out.parent / "miniature"
        try:
            return prove(
                mini,
                place,
                lambda a, b: run_builder(job, fields, a, b, trust=False),
                fields.precision,
                dtype,
                exact=exact,
            )
        except Exception as e:  # noqa: BLE001
            # What the builder does not take, it says again when it is given the model itself.
            return Proof(untried=f"{type(e).__name__}: {first_line(e, 200)}")

    plain = type(fields)(precision="fp32", provider="cpu")
    found = _kept_proof(
        job,
        ["of architecture", mini.config, mini.boundaries],
        lambda: tried(plain, "float32", exact=True),
    )
    if found.wrong or found.untried or fields.provider != "cpu":
        return replace(found, broken=bool(found.wrong))
    own = tried(fields, dtype, exact=False)
    return replace(found, wrong=own.wrong, untried=own.untried)


def _kept_proof(job: Job, about: list[object], prove: Callable[[], Proof]) -> Proof:
    from olivebuild.cache.memo import Derived
    from olivebuild.core import hashing
    from olivebuild.ml.onnx.trial import VERSION, Proof

    derived, versions = Derived(job.store), [[name, installed(name)] for name in LIBRARIES]
    key = hashing.of_json(["onnx proof", VERSION, versions, about])
    if (known := derived.read(key)) is not None:
        with contextlib.suppress(ValueError):
            return Proof.from_json(known)
    proof = prove()
    if not proof.untried:
        derived.write(key, proof.to_json())
    return proof
