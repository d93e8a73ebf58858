"""LoRA's product as it is computed where layers are compiled: scaled while it is narrow.

peft scales what is added to a layer's output. Its gradient is then one more pass over a matrix as wide as the output, and compilers
don't see that the factor could stand elsewhere.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear


def scale_while_narrow(model: Any) -> None:
    """For plain LoRA on plain layers; what else peft knows stays as it is."""
    for module in model.modules():
        if type(module) is Linear and not module.lora_variant and len(module.active_adapters) == 1 and _is_plain(module):
            vars(module)["forward"] = MethodType(_forward, module)


def _is_plain(module: Any) -> bool:
    return all(layer.bias is None for layer in (*module.lora_A.values(), *module.lora_B.values()))


def _forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    name = module.active_adapters[0]
    narrow = module.lora_A[name](module.lora_dropout[name](x)) * module.scaling[name]
    out: torch.Tensor = module.base_layer(x) + module.lora_B[name](narrow)
    return out
