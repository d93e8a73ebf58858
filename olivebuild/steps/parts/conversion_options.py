"""Options of conversions that several kinds and importers know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from olivebuild.api.step import Fields
from olivebuild.steps.parts.sequences import Positive

BuilderAlgorithm = Literal[
    "default", "rtn", "k_quant", "rtn_last", "k_quant_last", "k_quant_mixed", "k_quant_linear"
]
"""How the model builder rounds weights."""
Algorithm = Literal[BuilderAlgorithm, "gptq"]
"""The same, and what we round by rows of data."""
BlockSize = Literal[16, 32, 64, 128, 256]
PRECISIONS = {
    "cpu": ("int4", "int8", "fp32"),
    "cuda": ("int4", "int8", "fp16", "bf16", "fp32"),
    "dml": ("int4", "fp16"),
    "webgpu": ("int4", "int8", "fp16"),
}
"""Provider -> what the model builder converts to for it."""


class Tuning(Fields):
    """Settings of the tuning of scales."""

    steps: Positive = 60
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    batch: Positive = 8
    seed: Annotated[int, Field(ge=0)] = 0
