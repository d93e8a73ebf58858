"""QLoRA: a base in 4 bits while training, and what it is in full precision.

By bitsandbytes, on GPUs and processors.

Merging into 4-bit weights would lose what was learnt, so it is not done: a merge goes into the
base's own weights, or into the 4-bit weights' values in full precision, which are what training
saw.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from olivebuild.core.errors import InputError
from olivebuild.core.fs.small_files import read_json

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import Quantisation

FILE = "quantisation.json"
"""In an adapter's folder: how the base was quantised that it was trained on."""
BLOCK = 64


def configuration(options: Quantisation, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=options.type,
        bnb_4bit_use_double_quant=options.double,
        bnb_4bit_compute_dtype=dtype,
    )


def for_training(model: Any) -> None:
    """Keep bitsandbytes from packing a CPU's weights anew for a product without gradients.

    It would do so on the first call without gradients.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def note(folder: Path, options: Quantisation) -> None:
    (folder / FILE).write_text(
        json.dumps(options.model_dump(mode="json"), sort_keys=True) + "\n", "utf-8"
    )


@torch.no_grad()
def as_trained_on(job: Job, model: Any, adapter: Path) -> None:
    """Give a full-precision model the values that its 4-bit weights stand for.

    Raises InputError for an adapter trained otherwise.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    file = adapter / FILE
    if not file.is_file():
        hint = "leave `onto` out, or train the adapter with method: qlora"
        raise InputError(
            "the adapter was not trained on quantised weights", where=job.where("onto"), hint=hint
        )
    options = read_json(file)
    head = model.get_output_embeddings()
    for module in model.modules():
        # The head stays as it is when transformers loads in 4 bits.
        if isinstance(module, torch.nn.Linear) and module is not head:
            quantised, state = quantize_4bit(
                module.weight.data,
                blocksize=BLOCK,
                compress_statistics=options["double"],
                quant_type=options["type"],
            )
            module.weight.copy_(dequantize_4bit(quantised, state))
