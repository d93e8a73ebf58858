"""Training that sees weights as a conversion will round them.

A layer with LoRA multiplies by what its merged weight becomes, and its gradient is taken as if that
were the merged weight itself: the straight-through estimator of Bengio et al. 2013
(https://arxiv.org/abs/1308.3432), as in Jacob et al. 2018 (https://arxiv.org/abs/1712.05877).

A weight is rounded once for each state of its adapter, and kept as levels of a byte each. Its
values are computed from them for each product, also on the way back, so that memory holds those of
one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any

import torch

from olivebuild.ml.nn.aware.rounding import Grid, Rounded, merged_and_rounded, rounded
from olivebuild.ml.nn.linear import linear
from olivebuild.ml.nn.lora import plain_layers

ADAPTED = ".base_layer"
"""Of the name of a layer that has an adapter beside it."""


class Unseen(Exception):
    """A weight that a conversion rounds and training can't see rounded; its name."""


@torch.no_grad()
def see_rounded(model: Any, grids: Mapping[str, Grid], apart: set[str]) -> tuple[int, int]:
    """Change a peft model's layers so that they compute with rounded weights.

    `grids` are by the names of the base's weights; those of `apart` are rounded for the head alone,
    and the embedding that they are tied to reads them as they are. Return how many weights are
    rounded anew in each pass, and how many were for good. Raises Unseen.
    """
    base, left = model.get_base_model(), dict(grids)
    names = {
        id(weight): name.replace(ADAPTED, "")
        for name, weight in base.named_parameters()
        if name.replace(ADAPTED, "") in grids
    }
    adapted = list(plain_layers(model))
    inner = {id(m) for module in adapted for m in (module, module.base_layer)}
    others = [m for m in base.modules() if id(m) not in inner and _name_of(m, names)]
    for module in adapted:
        name = _name_of(module.base_layer, names)
        if any(m.weight is module.base_layer.weight for m in others):
            # A merge takes the two apart, and another model is converted.
            raise Unseen(name)
        if name:
            vars(module).update(grid=left.pop(name), rounded=None)
            vars(module)["forward"] = MethodType(_rounded_product, module)
    moving = len(grids) - len(left)
    for module in others:
        name = _name_of(module, names)
        if type(module) is torch.nn.Linear and name in apart:
            values = _values(module.weight, grids[name])
            module.weight = torch.nn.Parameter(values, requires_grad=False)
            left.pop(name, None)
        elif type(module) in (torch.nn.Linear, torch.nn.Embedding) and name in left.keys() - apart:
            module.weight.copy_(_values(module.weight, left.pop(name)))
    if left:
        raise Unseen(min(left))
    return moving, len(grids) - moving


def _name_of(module: Any, names: Mapping[int, str]) -> str:
    """Return the name of a module's weight among those that are rounded; empty for others."""
    return names.get(id(getattr(module, "weight", None)), "")


def rounding_layers(model: Any) -> list[Any]:
    """Return the layers that round their weight with what their adapter adds."""
    return [module for module in model.modules() if "grid" in vars(module)]


def forget(layers: Iterable[Any]) -> None:
    """Let layers round anew, since their adapters have changed."""
    for layer in layers:
        layer.rounded = None


def _values(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    return rounded(weight, grid).values(weight.dtype)


def _rounded_product(module: Any, x: torch.Tensor) -> torch.Tensor:
    name, base = module.active_adapters[0], module.base_layer
    a, b, scaling = module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
    if module.rounded is None:
        module.rounded = merged_and_rounded(base.weight, a, b, scaling, module.grid)
    out: torch.Tensor = _RoundedProduct.apply(x, base.bias, a, b, scaling, module.rounded)
    return out


class _RoundedProduct(torch.autograd.Function):
    """x R(W + s B A)', with R the rounding, and the gradients that R = identity would have."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        weight: Rounded,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(flat, a, b)
        ctx.scaling, ctx.weight = scaling, weight
        return linear(flat, weight.values(x.dtype), bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(
        ctx: Any, *grads: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, torch.Tensor, torch.Tensor, None, None]:
        flat, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        by_narrow = linear(grad, b.T).mul_(ctx.scaling)
        narrow = linear(flat, a).mul_(ctx.scaling)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = linear(grad, ctx.weight.values(grad.dtype).T).view(*grads[0].shape[:-1], -1)
        by_a, by_b = linear(by_narrow.T, flat.T), linear(narrow.T, grad.T).T.contiguous()
        return by_x, None, by_a, by_b, None, None
