"""Scales of an ONNX model's rounded weights, tuned so that it answers as the model before rounding.

A node of `onnx` targets with `tuning`, not a kind of its own in recipes. Its result holds all that
GPTQ rounds, levels included, so that a conversion on another machine has the very same.
"""

from __future__ import annotations

from typing import Any

from olivebuild.api.step import Edge, Fields, Ref, Step
from olivebuild.steps.parts.conversion_options import Tuning

KIND = "scales"
ERRORS = "errors.json"
"""Tensor -> the error of its rounding; see ml/onnx/calibration/rounding.py."""


class ScalesFields(Tuning):
    data: Ref | None = None
    conversion: dict[str, Any]
    """The options of the model builder, as fields of an `onnx` target."""


class Scales(Step):
    kind = KIND
    version = 1
    fields = ScalesFields
    runner = "olivebuild.ml.kinds.scales"
    lazy = True
    floating = True
    gpu = True
    preload = ("olivebuild.ml.kernels.numpy_threads",)

    def libraries(self, fields: ScalesFields) -> tuple[str, ...]:
        return (
            "torch",
            "transformers",
            "tokenizers",
            "numpy",
            "onnxruntime-genai",
            "onnxruntime",
            "onnx",
            "onnx-ir",
        )

    def template(self, fields: ScalesFields) -> str:
        return "rendered"

    def parameters(self, fields: Fields) -> dict[str, object]:
        # The rows are an input, whose name does not count.
        return {k: v for k, v in super().parameters(fields).items() if k != "data"}

    def edges(self, fields: ScalesFields) -> list[Edge]:
        if fields.data is None:
            return []
        return [Edge("rows", fields.data, ("dataset",), "train", ("calibration",))]


STEP = Scales()
