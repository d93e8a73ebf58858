"""Second moments of the inputs of a model's matrices, by which an ONNX model's weights are rounded.

A node of `onnx` targets with `calibration`, not a kind of its own in recipes: its result belongs to
a model and to rows, so that an adapter that is trained anew on the same base finds it done.
"""

from __future__ import annotations

from olivebuild.api.step import Edge, Fields, Ref, Step

KIND = "moments"
INPUTS = "inputs.json"
"""Weight -> name of the tensor that holds its moments."""


class MomentsFields(Fields):
    model: Ref
    data: Ref


class Moments(Step):
    kind = KIND
    version = 1
    """Raised as well when other rows or tokens are chosen (ml/onnx/calibration/moments.py)."""
    fields = MomentsFields
    runner = "olivebuild.ml.kinds.moments"
    lazy = True
    floating = True
    gpu = True

    def libraries(self, fields: MomentsFields) -> tuple[str, ...]:
        return ("torch", "transformers", "tokenizers")

    def template(self, fields: MomentsFields) -> str:
        return "rendered"

    def parameters(self, fields: Fields) -> dict[str, object]:
        # Both fields are inputs, whose names don't count.
        return {}

    def edges(self, fields: MomentsFields) -> list[Edge]:
        model = Edge(
            "model", fields.model, ("model", "merged"), field=("model",), streams_tensors=True
        )
        return [model, Edge("rows", fields.data, ("dataset",), "train", ("calibration",))]


STEP = Moments()
