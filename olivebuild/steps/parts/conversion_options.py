"""Options of conversions that several kinds and importers know."""

from __future__ import annotations

from typing import Literal

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
