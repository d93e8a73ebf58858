"""An ONNX folder for onnxruntime-genai, made by its model builder or brought from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from olivebuild.api.fields import first_problem, only_one
from olivebuild.api.step import (
    Alternatives,
    Edge,
    Fields,
    FileInput,
    Node,
    Ref,
    Step,
    Target,
    step_of,
)
from olivebuild.core.errors import Problem, RecipeError
from olivebuild.formats.source import Source
from olivebuild.formats.structure import adapter_slots
from olivebuild.steps.merged import MergedFields, suited
from olivebuild.steps.moments import KIND, MomentsFields
from olivebuild.steps.parts.conversion_options import PRECISIONS, Algorithm, BlockSize, Tuning
from olivebuild.steps.scales import KIND as SCALES
from olivebuild.steps.scales import ScalesFields

CALIBRATION = ("calibration", "moments", "tuning")
"""The fields that go with `algorithm: gptq`. None is an option of the model builder's."""
OF_THE_GRAPH = (
    "slots",
    "accuracy_level",
    "include_hidden_states",
    "prune_lm_head",
    "cuda_graph",
    "dml_graph",
    "webgpu_graph",
)
"""Fields that change nothing of tensors, so that no scales are tuned anew for them."""
LIBRARIES = ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers")
"""The libraries whose versions decide the result of a conversion."""


class OnnxFields(Fields):
    """Fields of an ONNX model.

    The builder's own options stand directly on the target. What is not given is the builder's
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
    algorithm: Algorithm | None = None
    calibration: Ref | None = None
    moments: Literal["base", "merged"] | None = None
    """Of `gptq`: whose inputs are looked at. Those of the `base` (the default) let a new adapter
    have only those tensors rounded again that it changes; those of the `merged` model none.
    """
    tuning: Tuning | None = None
    """Of `gptq`: scales are tuned after rounding, so that the model answers as before it.

    `{}` takes the defaults.
    """
    block_size: BlockSize | None = None
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
    slots: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] | None = None
    """Modules of the layers for which `onnx-adapter` targets can be given when the model runs."""

    @property
    def builder_fields(self) -> OnnxFields:
        """The fields with what the model builder and its results depend on alone.

        What `gptq` rounds has the layout of the builder's `k_quant`, with zero points, or with
        `symmetric: true` that of its default algorithm, without.
        """
        if self.algorithm != "gptq":
            return self
        layout = (
            {"algorithm": None} if self.symmetric else {"algorithm": "k_quant", "symmetric": None}
        )
        return self.model_copy(update=dict.fromkeys(CALIBRATION) | layout)

    @field_validator("slots")
    @classmethod
    def _sorted(cls, value: list[str] | str | None) -> list[str] | str | None:
        # Order has no meaning here, so it must not change the key.
        return sorted(set(value)) if isinstance(value, list) else value


OVERRIDES = tuple(
    only_one(
        name,
        "overrides",
        fact=f"the model builder takes {name} or overrides, not both",
        hint="leave one out",
    )
    for name in ("mixed_precision", "nodes_to_exclude", "op_types")
)
"""The options that the builder drops when it is given `overrides`."""
BROUGHT_OR_MADE = Alternatives(
    groups=(("source",), ("model", "adapter")),
    only_with={
        "source": ("trust",),
        "model": tuple(
            name
            for name in OnnxFields.model_fields
            if name not in ("source", "trust", "model", "adapter")
        ),
    },
)


class Onnx(Step):
    kind = "onnx"
    version = 6
    changes: ClassVar = {
        5: "what is converted is compared with transformers, must be finite, and promises the "
        "length that works",
        6: "norms of Phi-2 and Nemotron are computed with the epsilon of their configuration, and "
        "LongRoPE is tried beyond any original context",
        7: "of a folder from elsewhere only the files are taken that onnxruntime-genai reads, and "
        "`gptq` damps moments by a tenth of their mean instead of a hundredth",
    }
    fields = OnnxFields
    summary = "an onnxruntime-genai folder: int4, int8, fp16, fp32 for cpu, cuda, dml, webgpu"
    runner = "olivebuild.ml.kinds.onnx"
    alternatives = (BROUGHT_OR_MADE, *OVERRIDES)
    preload = (
        "olivebuild.ml.kernels.numpy_threads",
        "olivebuild.ml.weights.lora",
        "olivebuild.ml.onnx.assemble",
    )
    preload_once = (
        "olivebuild.ml.onnx.miniature_proof",
        "onnxruntime_genai.models.builder",
        "olivebuild.ml.onnx.builder_trace",
    )

    def version_of(self, fields: OnnxFields) -> int:
        return 7 if fields.source or fields.algorithm == "gptq" else self.version

    def takes_gpu(self, fields: OnnxFields) -> bool:
        return fields.provider == "cuda"

    def computes(self, fields: OnnxFields) -> bool:
        return not fields.source

    def template(self, fields: OnnxFields) -> str:
        return "" if fields.source else "published"

    def reuses_worker(self, fields: OnnxFields) -> bool:
        return not fields.source and not self.takes_gpu(fields)

    def libraries(self, fields: OnnxFields) -> tuple[str, ...]:
        if fields.source:
            return ()
        return (*LIBRARIES, "numpy") if fields.algorithm == "gptq" else LIBRARIES

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        assert isinstance(fields, OnnxFields)
        whole = dict(super().outputs(fields))
        return whole if fields.slots is None else {**whole, "slots": adapter_slots.NAME}

    def edges(self, fields: OnnxFields) -> list[Edge]:
        if fields.model is None:
            return []
        return [
            Edge("model", fields.model, ("model", "merged"), field=("model",), streams_tensors=True)
        ]

    def files(self, fields: OnnxFields) -> list[FileInput]:
        if fields.source is None or fields.source.scheme != "file":
            return []
        return [FileInput("source", fields.source.name, ("source",))]

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, OnnxFields)
        if fields.source:
            return {"trust": True} if fields.trust else {}
        parameters = super().parameters(fields)
        # An adapter is merged by a node of its own, moments are an input, and `trust` is about
        # folders from elsewhere.
        for name in ("adapter", "trust", *CALIBRATION):
            parameters.pop(name, None)
        return parameters

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        """Return the node, and those before it.

        With an `adapter` that is one for the merge of the two, with `calibration` one for moments,
        with `tuning` one for scales.
        """
        fields = target.fields
        assert isinstance(fields, OnnxFields)
        nodes, edges = [], self.edges(fields)
        if fields.adapter and fields.model:
            merged = step_of("merged")
            assert merged is not None
            inner = suited(
                MergedFields.model_validate(
                    {"model": str(fields.model), "adapter": str(fields.adapter)}
                ),
                targets,
            )
            nodes.append(
                merged.node(f"{target.name}:merged", target.name, inner, merged.edges(inner))
            )
            edges = [_of_sibling("model", "model", target.name, "merged")]
        if fields.calibration and fields.model:
            nodes.append(_moments(target.name, fields, edges[0], targets))
            edges.append(_of_sibling("moments", "calibration", target.name))
        if fields.tuning and fields.calibration and fields.model:
            nodes.append(_scales(target.name, fields, edges))
            # They hold all that moments decide.
            edges[-1:] = [_of_sibling("scales", "tuning", target.name)]
        return [*nodes, self.node(target.name, target.name, fields, edges)]

    def check(self, fields: OnnxFields) -> Problem | None:
        if fields.source:
            return _check_import(fields, fields.source)
        if not fields.model:
            return Problem("it needs `model`, or `source`", "for example model: merged")
        if fields.precision not in PRECISIONS[fields.provider]:
            return Problem(
                f"{fields.precision} does not exist for {fields.provider}",
                f"precision: one of {', '.join(PRECISIONS[fields.provider])}",
            )
        return _check_overrides(fields) or _check_calibration(fields)


def _of_sibling(role: str, field: str, target: str, sibling: str = "") -> Edge:
    """Return an edge from a node of the same target."""
    return Edge(
        role, Ref(target), (), field=(field,), sibling=sibling or role, streams_tensors=True
    )


def _moments(name: str, fields: OnnxFields, model: Edge, targets: Mapping[str, Target]) -> Node:
    """Return the node of the moments by which a target's weights are rounded.

    `model` is the edge of the model that is converted. Raises RecipeError where that has no base.
    """
    step, base = step_of(KIND), fields.model
    assert step is not None
    assert base is not None
    inner = MomentsFields.model_validate({"model": str(base), "data": str(fields.calibration)})
    if fields.moments == "merged":
        _, data = step.edges(inner)
        return step.node(f"{name}:{KIND}", name, inner, (model, data))
    seen: set[str] = set()
    while (merged := targets.get(base.target)) and isinstance(merged.fields, MergedFields):
        if base.target in seen:
            # A cycle, which is told of where the graph is put in order.
            break
        seen.add(base.target)
        if merged.fields.model is None:
            raise RecipeError(
                f"{base} comes from elsewhere, so that there is no base to take moments of",
                hint="write moments: merged",
            )
        base = merged.fields.model
    inner = inner.model_copy(update={"model": base})
    return step.node(f"{name}:{KIND}", name, inner, step.edges(inner))


def _scales(name: str, fields: OnnxFields, edges: list[Edge]) -> Node:
    """Return the node of a target's tuned scales; `edges` are those of its model and moments."""
    step = step_of(SCALES)
    assert step is not None
    assert fields.tuning is not None
    options = fields.builder_fields.model_dump(
        mode="json", exclude_none=True, exclude={"model", "adapter", "trust", *OF_THE_GRAPH}
    )
    inner = ScalesFields.model_validate(
        {"data": str(fields.calibration), "conversion": options, **fields.tuning.model_dump()}
    )
    return step.node(f"{name}:{SCALES}", name, inner, [*edges, *step.edges(inner)])


def _check_calibration(fields: OnnxFields) -> Problem | None:
    if fields.algorithm != "gptq":
        for name in CALIBRATION:
            if getattr(fields, name) is not None:
                return Problem(
                    f"`{name}` belongs to algorithm: gptq", "write that, or leave it out"
                )
        return None
    if not fields.calibration:
        return Problem(
            "algorithm: gptq needs `calibration`, rows that weights are rounded by",
            "name what the adapter is trained on, for example calibration: tone.train",
        )
    if fields.precision != "int4":
        return Problem(
            f"algorithm: gptq rounds to 4 bits, and precision is {fields.precision}",
            "write precision: int4, or leave `algorithm` and `calibration` out",
        )
    if fields.qdq or "Gather" in (fields.op_types or ()):
        lost = "qdq" if fields.qdq else "op_types: [Gather]"
        return Problem(
            f"algorithm: gptq rounds tensor by tensor, which is not known for {lost}",
            "leave one out",
        )
    return None


def _check_import(fields: OnnxFields, source: Source) -> Problem | None:
    if not source.may_be("onnx"):
        return Problem(
            "an ONNX model comes from a folder, hf:ID, or an az:, s3: or gs: URL", "name one"
        )
    extra = sorted(fields.model_fields_set - {"source", "trust"})
    if extra:
        return Problem(
            f"`source` brings a finished ONNX folder, so {', '.join(extra)} has no meaning",
            "leave it out",
        )
    return None


def _check_overrides(fields: OnnxFields) -> Problem | None:
    if problem := first_problem(OVERRIDES, fields):
        return problem
    if fields.overrides and fields.algorithm not in (None, "default", "rtn", "k_quant", "gptq"):
        lost = f"algorithm: {fields.algorithm}"
        return Problem(f"the model builder takes {lost} or overrides, not both", "leave one out")
    return None


STEP = Onnx()
