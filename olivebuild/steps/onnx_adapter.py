"""A LoRA adapter as a file of its own, for the slots of an ONNX model that was built once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from olivebuild.api.step import Alternatives, Edge, Fields, FileInput, Node, Ref, Step, Target
from olivebuild.core.errors import Problem, RecipeError
from olivebuild.formats.source import Source
from olivebuild.steps.adapter import AdapterFields, begins_elsewhere
from olivebuild.steps.onnx import OnnxFields

ROLE = "slots"
"""The role of the base: its list of slots is all that an adapter's file is made by."""


class OnnxAdapterFields(Fields):
    base: Ref | None = None
    """An `onnx` target with `slots`."""
    adapter: Ref | None = None
    """A LoRA adapter of this recipe."""
    source: Source | None = None
    """A LoRA adapter's folder, as peft or Unsloth save it."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """Of one from elsewhere: end tokens, as text, instead of the chat template's."""


TRAINED_OR_BROUGHT = Alternatives(
    groups=(("source",), ("adapter",)),
    only_with={"source": ("stop",)},
    fact="`source` brings an adapter, and `adapter` names one of this recipe",
    hint="leave one out",
)


class OnnxAdapter(Step):
    kind = "onnx-adapter"
    fields = OnnxAdapterFields
    summary = "an adapter beside the ONNX model `base`, which is built once with `slots`"
    runner = "olivebuild.ml.kinds.onnx_adapter"
    alternatives = (TRAINED_OR_BROUGHT,)

    def libraries(self, fields: OnnxAdapterFields) -> tuple[str, ...]:
        return ("onnxruntime",)

    def reuses_worker(self, fields: OnnxAdapterFields) -> bool:
        return fields.source is None or fields.source.scheme == "file"

    def edges(self, fields: OnnxAdapterFields) -> list[Edge]:
        edges = []
        if fields.base:
            edges.append(Edge(ROLE, fields.base, ("onnx",), "slots", ("base",)))
        if fields.adapter:
            edges.append(
                Edge(
                    "adapter",
                    fields.adapter,
                    ("adapter",),
                    field=("adapter",),
                    streams_tensors=True,
                )
            )
        return edges

    def files(self, fields: OnnxAdapterFields) -> list[FileInput]:
        if fields.source is None or fields.source.scheme != "file":
            return []
        return [FileInput("source", fields.source.name, ("source",))]

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, OnnxAdapterFields)
        return {"stop": sorted(set(fields.stop))} if fields.stop else {}

    def nodes(self, target: Target, targets: Mapping[str, Target]) -> list[Node]:
        """Return the target's node.

        Raises RecipeError for a base without slots, and an adapter that can't be kept apart.
        """
        fields = target.fields
        assert isinstance(fields, OnnxAdapterFields)
        base = targets.get(fields.base.target) if fields.base else None
        if base and isinstance(base.fields, OnnxFields) and base.fields.slots is None:
            raise RecipeError(
                f"{base.name} has no slots for adapters",
                hint=f"write `slots: all-linear` on {base.name}, or the names of modules",
            )
        _check_adapter(fields.adapter, targets)
        return super().nodes(target, targets)

    def check(self, fields: OnnxAdapterFields) -> Problem | None:
        if not fields.base:
            return Problem(
                "it needs `base`, an `onnx` target with `slots`", "for example base: onnx-int4"
            )
        if problem := TRAINED_OR_BROUGHT.problem(fields):
            return problem
        if fields.source and not fields.source.may_be("onnx-adapter"):
            return Problem(
                "an adapter comes from a folder, hf:ID, or an az:, s3: or gs: URL", "name one"
            )
        if fields.stop and not fields.source:
            return Problem(
                "`stop` is about an adapter from elsewhere", "write it on the adapter itself"
            )
        if not (fields.adapter or fields.source):
            return Problem("it needs `adapter`, or `source`", "for example adapter: adapter")
        return None


def _check_adapter(ref: Ref | None, targets: Mapping[str, Target]) -> None:
    """Raise RecipeError for an adapter of the recipe that is no plain LoRA beside its base."""
    target = targets.get(ref.target) if ref else None
    fields = target.fields if target else None
    if not isinstance(fields, AdapterFields) or fields.source:
        return
    what = ""
    if begins_elsewhere(ref, targets):
        what = "is trained by LoftQ, which changes the base"
    elif fields.method in ("loha", "lokr"):
        what = f"is no LoRA (method: {fields.method})"
    elif fields.dora:
        what = "trains directions and magnitudes apart (dora)"
    elif fields.aware:
        what = "is trained to be rounded with its base (aware)"
    if what:
        raise RecipeError(
            f"{ref} {what}: it can't be kept apart from an ONNX model",
            hint="merge it, and convert the merged model",
        )


STEP = OnnxAdapter()
