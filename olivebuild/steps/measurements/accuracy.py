"""Accuracy of a model on test rows: by the likelihood of labels, by its answers, by user scores."""

from __future__ import annotations

from typing import ClassVar

from olivebuild.api.step import Fields, FileInput, Step


class AccuracyFields(Fields):
    max_new_tokens: int
    json_schema: str | None = None
    score: list[str] = []
    adapter: bool = False
    """Whether an adapter answers, on the model."""
    in_slots: bool = False
    """Whether that is an ONNX model with slots."""
    dequantised: bool = False
    """Whether it does so on the model's dequantised weights."""


class Accuracy(Step):
    kind = "benchmark-accuracy"
    version = 4
    changes: ClassVar = {
        3: "models are asked with the tokens of their own chat template; special tokens are text, "
        "but for the ends",
        4: "what prompts share is read once and rows by length, which moves likelihoods in their "
        "last digits; long answers that are known to be wrong are cut",
    }
    fields = AccuracyFields
    runner = "olivebuild.ml.kinds.measurements.accuracy"
    floating = True
    gpu = True
    preload_once = ("olivebuild.ml.inference.generate",)

    def libraries(self, fields: AccuracyFields) -> tuple[str, ...]:
        return (
            "torch",
            "transformers",
            "tokenizers",
            "onnxruntime-genai",
            "scikit-learn",
            "scipy",
            *(("jsonschema",) if fields.json_schema else ()),
            *(("peft",) if fields.adapter and not fields.in_slots else ()),
            *(("bitsandbytes",) if fields.dequantised else ()),
        )

    def reuses_worker(self, fields: AccuracyFields) -> bool:
        # The user's own functions may leave anything behind.
        return not fields.score

    def template(self, fields: AccuracyFields) -> str:
        return "rendered"

    def files(self, fields: AccuracyFields) -> list[FileInput]:
        inputs = []
        if fields.json_schema:
            inputs.append(FileInput("json_schema", fields.json_schema, ("json_schema",)))
        for i, text in enumerate(fields.score):
            script = text.rpartition(":")[0]
            inputs.append(FileInput(f"score.{i}", script, ("score",)))
        return inputs

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, AccuracyFields)
        return {
            "max_new_tokens": fields.max_new_tokens,
            "score": [text.rpartition(":")[2] for text in fields.score],
        }


STEP = Accuracy()
