"""Latency, memory and energy of models on this machine.

A latency belongs to structures, not to weights: the key holds those of all models, and an edit that
keeps them measures nothing. ml/benchmark/latency.py measures.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from olivebuild.api.step import Fields, Step

Positive = Annotated[int, Field(gt=0)]
Remeasure = Annotated[str, Field(pattern=r"^(never|always|[1-9][0-9]{0,4}d)$")]
DAY = 86400.0


class LatencyFields(Fields):
    """`prompt_tokens` and `new_tokens` are tokens.

    After `warmup` runs come at least `rounds`, until time to first token and time per token
    are known to `tolerance` (half the interval, as a share), or `max_rounds` or `max_seconds` are
    over.
    """

    prompt_tokens: Positive = 64
    new_tokens: Positive = 32
    warmup: Positive = 1
    rounds: Positive = 9
    max_rounds: Positive = 40
    max_seconds: Annotated[float, Field(gt=0)] = 60.0
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    remeasure: Remeasure = "never"
    """`30d`: what was measured longer ago is measured again. `always`: so is each new model, though
    its structure be the same."""


class Latency(Step):
    kind = "benchmark-latency"
    version = 5
    changes: ClassVar = {
        5: "the key no longer holds the memory of the machine",
        4: "the key holds the models' structures instead of their content, models of one structure "
        "are measured once, and a control runs beside them",
    }
    fields = LatencyFields
    runner = "olivebuild.ml.kinds.measurements.latency"
    floating = True
    exclusive = True
    gpu = True
    machine_bound = True

    def libraries(self, fields: LatencyFields) -> tuple[str, ...]:
        return ("torch", "transformers", "onnxruntime", "onnxruntime-genai", "scipy")

    def keyed(self, fields: LatencyFields) -> tuple[str, ...]:
        return ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

    def parameters(self, fields: Fields) -> dict[str, object]:
        # An age is no part of what was measured, and `always` has the models' content in the key.
        return {k: v for k, v in super().parameters(fields).items() if k != "remeasure"}

    def max_age(self, fields: LatencyFields) -> float | None:
        return float(fields.remeasure[:-1]) * DAY if fields.remeasure.endswith("d") else None


STEP = Latency()
