"""Merged model: an adapter merged into full-precision weights, as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from olivebuild.api.step import Alternatives, Edge, Fields, Node, Ref, Step, Target
from olivebuild.core.errors import Problem, RecipeError
from olivebuild.formats.source import Source
from olivebuild.steps.adapter import begins_elsewhere


class MergedFields(Fields):
    model: Ref | None = None
    adapter: Ref | None = None
    source: Source | None = None
    reproducible: bool = False
    """Products accumulated in float64, in one order: the same bytes on every processor. Slower."""
    onto: Literal["base", "dequantised"] = "base"
    """Of an adapter trained on 4-bit weights: into the full-precision ones, or into what training
    saw of them. That is where LoftQ's always go.
    """


def suited(fields: MergedFields, targets: Mapping[str, Target]) -> MergedFields:
    """Return the fields with the weights that the adapter acts on: for LoftQ's, dequantised ones.

    Raises RecipeError where the recipe says others.
    """
    if fields.onto == "dequantised" or not begins_elsewhere(fields.adapter, targets):
        return fields
    if "onto" in fields.model_fields_set:
        raise RecipeError(
            f"{fields.adapter} is trained by LoftQ, which changes the base: it can't be merged "
            "onto another one",
            hint="leave `onto` out, or write onto: dequantised",
        )
    return fields.model_copy(update={"onto": "dequantised"})


BROUGHT_OR_MADE = Alternatives(
    groups=(("source",), ("model", "adapter")),
    fact="`source` brings a merged model",
    hint="leave `model` and `adapter` out",
)


class Merged(Step):
    kind = "merged"
    version = 3
    changes: ClassVar = {
        3: "a merged model in several files has the index that loaders need, additional chat "
        "templates and an adapter's own tokenizer come along, tied weights come apart, and "
        "generation_config.json names the end tokens that were trained",
    }
    fields = MergedFields
    summary = "an adapter merged into its base, or a merged model from elsewhere (`source`)"
    runner = "olivebuild.ml.kinds.merged"
    alternatives = (BROUGHT_OR_MADE,)
    lazy = True
    preload = (
        "olivebuild.ml.kernels.numpy_threads",
        "olivebuild.ml.weights.merge",
        "olivebuild.ml.onnx.ahead",
        "olivebuild.steps.onnx",
    )

    def libraries(self, fields: MergedFields) -> tuple[str, ...]:
        if fields.source:
            return ()
        libraries = ("torch", "transformers", "peft", "safetensors")
        return libraries if fields.onto == "base" else (*libraries, "bitsandbytes")

    def parameters(self, fields: Fields) -> dict[str, object]:
        parameters = super().parameters(fields)
        # Left out at its default: merges from before there was a choice keep their keys.
        if parameters.get("onto") == "base":
            parameters.pop("onto")
        return parameters

    def computes(self, fields: MergedFields) -> bool:
        return not fields.source and not fields.reproducible

    def template(self, fields: MergedFields) -> str:
        return "" if fields.source else "published"

    def reuses_worker(self, fields: MergedFields) -> bool:
        return not fields.source

    def edges(self, fields: MergedFields) -> list[Edge]:
        if not (fields.model and fields.adapter):
            return []
        return [
            Edge(
                "model", fields.model, ("model", "merged"), field=("model",), streams_tensors=True
            ),
            Edge("adapter", fields.adapter, ("adapter",), field=("adapter",), streams_tensors=True),
        ]

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        assert isinstance(target.fields, MergedFields)
        fields = suited(target.fields, targets)
        return [self.node(target.name, target.name, fields, self.edges(fields))]

    def referenced_folder(self, fields: MergedFields) -> str | None:
        return fields.source.name if fields.source and fields.source.scheme == "file" else None

    def check(self, fields: MergedFields) -> Problem | None:
        if fields.source:
            if not fields.source.may_be("merged"):
                return Problem(
                    "a merged model comes from a folder, hf:ID, or an az:, s3: or gs: URL",
                    "name one",
                )
            return BROUGHT_OR_MADE.problem(fields)
        if fields.adapter and not fields.model:
            return Problem(
                "an adapter is merged into an explicit full-precision `model`",
                "also one trained on a ...-bnb-4bit base, without that suffix",
            )
        if not (fields.model and fields.adapter):
            return Problem(
                "it needs `model` and `adapter`, or `source`",
                "for example model: base, adapter: adapter",
            )
        return None


STEP = Merged()
