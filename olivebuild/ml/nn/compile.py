"""Compilation of decoder layers, after what a compiler can't see is put another way.

No result changes but for rounding.

Products are the library's, so a compiler saves passes over memory between them. Three it must be
helped with: LoRA's factor, which it applies to the wide product and not to the narrow one; LoRA's
own product, which is added in a pass of its own; and the gradient of a gate that is one product
with what it gates, of which each half is computed with all that the other one reads.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear

from olivebuild.ml.nn.forward import evaluating
from olivebuild.ml.nn.frozen.fp8 import Fp8Linear
from olivebuild.ml.nn.lora import plain_layers

ALIGNED = 8
"""Numbers of 16 bits that a row of a matrix begins at a multiple of, for the fast kernels."""


def compile_layers(model: Any, *, alike: bool) -> None:
    """Each decoder layer by itself: they are alike, so that one compilation serves all.

    `alike`: so are all batches.
    """
    # Training, judging, the first layer (whose input has no gradient) and the others are different
    # cases.
    torch._dynamo.config.recompile_limit = 64
    # What can't be compiled runs as it is.
    torch._dynamo.config.suppress_errors = True
    # The random numbers of dropout come from torch's own kernel: those of the plain path, and twice
    # as fast as compiled ones.
    torch._inductor.config.fallback_random = True
    base = model.get_base_model()
    names = set(getattr(base, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in names or module in getattr(base.base_model, "layers", ()):
            module.compile(dynamic=None if alike else True)


def suit_compiler(model: Any) -> None:
    """Change a peft model's layers for `compile_layers`."""
    for module in plain_layers(model, (torch.nn.Linear, Fp8Linear)):
        vars(module)["forward"] = MethodType(
            _beside if _put_beside(module) else _narrow_first, module
        )
    with evaluating(model):
        for module in model.modules():
            if _has_gate_in_one(module):
                vars(module)["forward"] = MethodType(_gate_apart, module)


def _narrow_first(module: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = module.base_layer(x) + module.lora_B[module.active_adapters[0]](
        _narrow(module, x)
    )
    return out


def _narrow(module: Any, x: torch.Tensor) -> torch.Tensor:
    name = module.active_adapters[0]
    narrow: torch.Tensor = module.lora_A[name](module.lora_dropout[name](x)) * module.scaling[name]
    return narrow


# One product for a layer and its LoRA: [x, narrow] times [weight, B]


def _put_beside(module: Any) -> bool:
    """Lay a layer's weight and LoRA's B side by side in one matrix, where that pays.

    Both become views of it.
    """
    weight, b = module.base_layer.weight, module.lora_B[module.active_adapters[0]].weight
    # Where less comes out than goes in, laying the input beside is dearer than adding to the
    # output. Float32 weights are stepped where they
    # lie, so they stay whole.
    if (
        weight.dtype != b.dtype
        or weight.dtype.itemsize != 2
        or weight.shape[0] <= weight.shape[1]
        or b.shape[1] % ALIGNED
        or module.base_layer.bias is not None
    ):
        return False
    module.both = torch.cat([weight.detach(), b.detach()], 1)
    weight.data, b.data = module.both.split([weight.shape[1], b.shape[1]], 1)
    return True


def _beside(module: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = _Beside.apply(
        x, _narrow(module, x), module.lora_B[module.active_adapters[0]].weight, module.both
    )
    return out


class _Beside(torch.autograd.Function):
    """x W' + narrow B' as [x, narrow] [W, B]', where `both` is [W, B] and W is not trained."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, narrow: torch.Tensor, _: torch.Tensor, both: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(narrow, both)
        return torch.cat([x, narrow], -1) @ both.T

    @staticmethod
    def backward(
        ctx: Any, *grads: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        narrow, both = ctx.saved_tensors
        weight, b = both.split([both.shape[1] - narrow.shape[-1], narrow.shape[-1]], 1)
        return (
            grads[0] @ weight,
            grads[0] @ b,
            grads[0].flatten(0, -2).T @ narrow.flatten(0, -2),
            None,
        )


# A gate apart from what it gates


def _has_gate_in_one(module: Any) -> bool:
    """Return whether this is down(up * act(gate)) with gate and up one untrained product.

    The module itself is asked, with a few numbers.
    """
    one: Any = getattr(module, "gate_up_proj", None)
    plain = type(one) is torch.nn.Linear
    if (
        not plain
        or one.bias is not None
        or one.weight.requires_grad
        or not hasattr(module, "activation_fn")
    ):
        return False
    some = torch.linspace(
        -1, 1, 4 * one.in_features, device=one.weight.device, dtype=one.weight.dtype
    ).view(1, 4, -1)
    with torch.no_grad():
        return bool(torch.allclose(_gate_apart(module, some), module(some), rtol=2e-2, atol=1e-5))


def _gate_apart(module: Any, x: torch.Tensor) -> torch.Tensor:
    gate, up = module.gate_up_proj.weight.chunk(2)
    out: torch.Tensor = module.down_proj(linear(x, up) * module.activation_fn(linear(x, gate)))
    return out
