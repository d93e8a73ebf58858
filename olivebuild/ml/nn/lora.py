"""LoRA's products as they are fastest on a processor.

What is learnt is that of peft's layers but for rounding.

peft adds what LoRA gives to a layer's output as a matrix of its own, scaled. Much of a small
model's time goes there: into passes over wide matrices, and into products with a narrow one that
lies across. For layers that are compiled see ml/nn/compile.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear

from olivebuild.ml.nn.linear import linear


def join_products(model: Any) -> None:
    """Change the plain LoRA layers of a peft model that runs as it is."""
    for module in plain_layers(model):
        if all(type(dropout) is torch.nn.Identity for dropout in module.lora_dropout.values()):
            vars(module)["forward"] = MethodType(_joined, module)


def plain_layers(model: Any, products: Collection[type] = (torch.nn.Linear,)) -> Iterator[Any]:
    """Return layers with plain LoRA on one of `products`, whose own weights are not trained.

    What else peft knows stays as it is.
    """
    for module in model.modules():
        if (
            type(module) is Linear
            and type(module.base_layer) in products
            and not module.lora_variant
            and len(module.active_adapters) == 1
        ):
            parts = [*module.lora_A.values(), *module.lora_B.values()]
            if (
                all(part.bias is None for part in parts)
                and not module.base_layer.weight.requires_grad
            ):
                yield module


def _joined(module: Any, x: torch.Tensor) -> torch.Tensor:
    name, base = module.active_adapters[0], module.base_layer
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    out: torch.Tensor = _Joined.apply(x, base.weight, base.bias, a, b, module.scaling[name])
    return out


class _Joined(torch.autograd.Function):
    """x W' + s (x A') B', and its gradients, each added up in place.

    No product has a narrow factor that lies across.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        narrow = linear(flat, a).mul_(scaling)
        ctx.save_for_backward(flat, weight, a, b, narrow)
        ctx.scaling = scaling
        return linear(flat, weight, bias).addmm_(narrow, b.T).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(
        ctx: Any, *grads: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None, torch.Tensor, torch.Tensor, None]:
        flat, weight, a, b, narrow = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        by_narrow = linear(grad, b.T).mul_(ctx.scaling)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = linear(grad, weight.T).addmm_(by_narrow, a).view(*grads[0].shape[:-1], -1)
        return (
            by_x,
            None,
            None,
            linear(by_narrow.T, flat.T),
            linear(narrow.T, grad.T).T.contiguous(),
            None,
        )
