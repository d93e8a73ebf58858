"""Latency, memory, energy and size of models on this machine.

ml/benchmark/latency.py measures them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from olivebuild.api.step import Fields, Step

Positive = Annotated[int, Field(gt=0)]


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


class Latency(Step):
    kind = "benchmark-latency"
    version = 3
    fields = LatencyFields
    runner = "olivebuild.ml.kinds.benchmark_latency"
    floating = True
    exclusive = True
    gpu = True
    machine_bound = True

    def libraries(self, fields: LatencyFields) -> tuple[str, ...]:
        return ("torch", "transformers", "onnxruntime-genai", "scipy")


STEP = Latency()
