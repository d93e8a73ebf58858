"""How often a model is right on the test rows: by the likelihood of each label, by what it writes,
and by scores of the user's own.
"""

from __future__ import annotations

from typing import ClassVar

from olivebuild.api.step import Fields, FileInput, Step


class AccuracyFields(Fields):
    max_new_tokens: int
    json_schema: str | None = None
    score: list[str] = []
    adapter: bool = False
    """Whether an adapter answers, on the model."""


class Accuracy(Step):
    kind = "benchmark-accuracy"
    version = 3
    changes: ClassVar = {
        3: "models are asked with the tokens of their own chat template; special tokens are text, "
        "but for the ends"
    }
    fields = AccuracyFields
    runner = "olivebuild.ml.kinds.benchmark_accuracy"
    floating = True
    gpu = True

    def libraries(self, fields: AccuracyFields) -> tuple[str, ...]:
        return (
            "torch",
            "transformers",
            "tokenizers",
            "onnxruntime-genai",
            "scikit-learn",
            "scipy",
            *(("jsonschema",) if fields.json_schema else ()),
            *(("peft",) if fields.adapter else ()),
        )

    def template(self, fields: AccuracyFields) -> str:
        return "rendered"

    def files(self, fields: AccuracyFields) -> list[FileInput]:
        schema = (
            [FileInput("json_schema", fields.json_schema, ("json_schema",))]
            if fields.json_schema
            else []
        )
        return [
            *schema,
            *(
                FileInput(f"score.{i}", text.rpartition(":")[0], ("score",))
                for i, text in enumerate(fields.score)
            ),
        ]

    def parameters(self, fields: Fields) -> dict[str, object]:
        assert isinstance(fields, AccuracyFields)
        return {
            "max_new_tokens": fields.max_new_tokens,
            "score": [text.rpartition(":")[2] for text in fields.score],
        }


STEP = Accuracy()
