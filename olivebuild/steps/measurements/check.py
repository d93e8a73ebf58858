"""Check of a converted model against its source.

The logits of a merge are compared with its adapter's, and those of an ONNX model with its source's.
The tokens that onnxruntime-genai makes of every test prompt are compared with the Hugging Face
tokenizer's.

The build fails if a merge disagrees with its adapter, a prompt becomes other tokens, or a
conversion is further from its source than its precision explains. Below that, the distance of int4
from its source is reported: accuracy judges it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from olivebuild.api.step import Fields, Step

SAMPLE = 4
"""Test rows whose logits are compared."""


class CheckFields(Fields):
    what: Literal["merge", "onnx"]
    precision: Literal["int4", "int8", "fp16", "fp32", "bf16"] | None = None
    """That an ONNX model was converted to: it decides what is explained."""


class Check(Step):
    kind = "benchmark-check"
    version = 2
    changes: ClassVar = {
        2: "the tokens that a deployed model is asked with are compared with those that are "
        "trained; all ends count"
    }
    fields = CheckFields
    runner = "olivebuild.ml.kinds.measurements.check"
    floating = True
    gpu = True
    preload_once = ("olivebuild.ml.inference.generate",)

    def libraries(self, fields: CheckFields) -> tuple[str, ...]:
        return (
            "torch",
            "transformers",
            "tokenizers",
            *(("peft",) if fields.what == "merge" else ("onnxruntime-genai",)),
        )

    def reuses_worker(self, fields: CheckFields) -> bool:
        return True

    def parameters(self, fields: Fields) -> dict[str, object]:
        return {
            name: value for name, value in super().parameters(fields).items() if value is not None
        }

    def template(self, fields: CheckFields) -> str:
        return "rendered"


STEP = Check()
