"""How fast models answer on this machine, what memory and energy it takes, and how large they are
on disk; _latency.py does it.
"""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from olivebuild.job import Job
from olivebuild.step import Fields, Result, Step

Positive = Annotated[int, Field(gt=0)]


class LatencyFields(Fields):
    """`prompt_tokens` and `new_tokens` are tokens.

    After `warmup` runs come at least `rounds`, until time to first token and time per token
    are known to `tolerance` (half the interval, as a share), or `max_rounds` or `max_seconds` are
    over."""

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
    floating = True
    exclusive = True
    gpu = True
    machine = True

    def libraries(self, fields: LatencyFields) -> tuple[str, ...]:
        return ("torch", "transformers", "onnxruntime-genai", "scipy")

    def run(self, job: Job) -> None:
        from olivebuild.steps._latency import measure

        def progress(done: int, total: int) -> None:
            job.progress("measuring", done, total)

        result = measure(
            [job.input(role) for role in job.roles("model")], job.fields(LatencyFields), progress
        )
        if not result["latency"]["interleaved"] and len(result["models"]) > 1:
            job.note(
                "memory does not hold all models at once: each was measured alone, so that what "
                "the machine did meanwhile counts"
            )
        (job.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        job.result = Result(metrics=result)


STEP = Latency()
