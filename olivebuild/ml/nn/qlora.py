"""QLoRA: a base in 4 bits while training, and what it is in full precision.

By bitsandbytes, on GPUs and processors. LoftQ's bases (ml/nn/loftq.py) are kept in the same way.

Merging into 4-bit weights would lose what was learnt, so it is not done: a merge goes into the
base's own weights, or into the 4-bit weights' values in full precision, which are what training
saw.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from olivebuild.core.errors import InputError, first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.ml.weights.adapter_config import QUANTISED, SUBTRACTED

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import Quantisation

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


def note(folder: Path, options: Quantisation, loftq_iter: int = 0) -> None:
    """Write how the base was quantised; `loftq_iter` are LoftQ's iterations, if it was LoftQ."""
    content = options.model_dump(mode="json") | ({"loftq_iter": loftq_iter} if loftq_iter else {})
    (folder / QUANTISED).write_text(json.dumps(content, sort_keys=True) + "\n", "utf-8")


def as_trained_on(job: Job, model: Any, adapter: Path) -> None:
    """Give a full-precision model the values that its 4-bit weights stand for.

    Raises InputError for an adapter trained otherwise.
    """
    if not (adapter / QUANTISED).is_file():
        hint = "leave `onto` out, or train the adapter with method: qlora"
        raise InputError(
            "the adapter was not trained on quantised weights", where=job.where("onto"), hint=hint
        )
    dequantise(model, adapter)


@torch.no_grad()
def dequantise(model: Any, adapter: Path) -> None:
    """Quantise a model as that of an adapter was, and give it the values it then stands for.

    Raises InputError for an adapter's files that don't say how, or are of another model.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    options, subtracted = _options_of(adapter), _subtracted_by(adapter)
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        # The head stays as it is when transformers loads in 4 bits.
        if isinstance(module, torch.nn.Linear) and module is not head:
            values, factors = module.weight.data, subtracted.pop(name, None)
            if factors:
                left, right = (factor.to(values.device, torch.float32) for factor in factors)
                if (left.shape[0], right.shape[-1]) != values.shape:
                    _refuse(adapter, f"the shape of {name} in {SUBTRACTED} is not the model's")
                values = values.float() - left @ right
            quantised, state = quantize_4bit(
                values,
                blocksize=BLOCK,
                compress_statistics=options.double,
                quant_type=options.type,
            )
            module.weight.copy_(dequantize_4bit(quantised, state))
    if subtracted:
        _refuse(adapter, f"{SUBTRACTED} names {min(subtracted)}, which the model does not have")


def _options_of(adapter: Path) -> Quantisation:
    """Return how an adapter's base was quantised. Raises InputError."""
    from olivebuild.steps.adapter import Quantisation

    try:
        said = read_json(adapter / QUANTISED)
        return Quantisation.model_validate({name: said[name] for name in ("type", "double")})
    except (ValueError, KeyError, TypeError) as e:
        _refuse(adapter, f"{QUANTISED} does not say how the base was quantised: {first_line(e)}")


def _subtracted_by(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return what LoftQ subtracted, by the layers' names, as (left, right). Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = adapter / SUBTRACTED
    if not file.is_file():
        return {}
    try:
        tensors = load_file(file)
        names = {name.rpartition(".")[0] for name in tensors}
        pairs = {name: (tensors[f"{name}.left"], tensors[f"{name}.right"]) for name in names}
    except (SafetensorError, KeyError) as e:
        _refuse(adapter, f"{SUBTRACTED} can't be read: {first_line(e)}")
    if unfit := [n for n, (left, right) in pairs.items() if not _are_factors(left, right)]:
        _refuse(adapter, f"{SUBTRACTED} holds no two factors of {min(unfit)}")
    return pairs


def _are_factors(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0]


def _refuse(adapter: Path, fact: str) -> NoReturn:
    raise InputError(
        fact, where=str(adapter), hint="is the adapter's folder whole, and was it trained on this?"
    )
