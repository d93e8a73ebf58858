"""Layers of an int4 model that would mend its answers in 8 bits, where it loses more than noise.

Weights of its source are rounded in torch as the builder rounds them to nearest, all but one kind
of layer to 4 bits, and the logits of answers that were lost are compared. So it takes a forward
pass of a few rows for each kind of layer, and nothing where int4 is as good as its source.
"""

from __future__ import annotations

from olivebuild.api.step import Fields, Step

ROWS = 12
"""Rows whose answers are compared, those first that int4 lost."""
MOST_PARAMETERS = 2_000_000_000
"""Larger models are not measured: it is done on the processor, in float32."""


class SensitivityFields(Fields):
    pass


class Sensitivity(Step):
    kind = "benchmark-sensitivity"
    fields = SensitivityFields
    runner = "olivebuild.ml.benchmark.sensitivity"
    floating = True

    def libraries(self, fields: SensitivityFields) -> tuple[str, ...]:
        return ("torch", "transformers", "tokenizers", "onnx", "scipy")

    def reuses_worker(self, fields: SensitivityFields) -> bool:
        return True

    def template(self, fields: SensitivityFields) -> str:
        return "rendered"


STEP = Sensitivity()
