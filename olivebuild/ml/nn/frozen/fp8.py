"""Frozen weights of linear layers in FP8, and products with them in FP8.

Weights are float8_e4m3fn with a scale for each row (output channel), rounded before the first step:
to the nearest, and a second time so that the mean of both is nearer still. The two take turns, a
step each, so that what is learnt leans on neither; a merge has neither. What is multiplied with
them is rounded alike for each token: the input, and in the backward pass the gradient by the
output, with the weight's scales in it. So both products take the same weight, and none has a sum
over what is scaled apart. torchao's rowwise recipe takes e4m3 for gradients, too
(torchao/float8/config.py, Float8LinearRecipeName.ROWWISE): with a scale for each row they don't
need the range of e5m2. LoRA's products stay as they are.

What is learnt goes into the base's own weights when it is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from olivebuild.ml.nn.frozen.layers import decoder_layers

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
SMALLEST_SCALE = 1e-12
"""Of a row of zeros."""
MULTIPLE = 16
"""What both sizes of a weight must be a multiple of, for cuBLASLt's and CUTLASS's products."""


def rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values [n, k] in FP8, and the scale of each row, float32 [n, 1]."""
    wide = values.float()
    scale = _scale_of(wide)
    return (wide / scale).to(FORMAT), scale


def rounded_again(values: torch.Tensor, first: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return values [n, k] in FP8 with the error of `first`, their rounding, the other way round.

    The mean of both is off by half of a rounding's error.
    """
    opposite = 2 * (values.float() / scale) - first.float()
    return opposite.clamp(-LARGEST, LARGEST).to(FORMAT)


def _rounded_fast(
    values: torch.Tensor, factors: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values times `factors` [k], rounded as by `rounded` but for its last bit on a card.

    In layers that are compiled it is one kernel with what comes before it, where dividing each
    number takes as long as reading it.
    """
    wide = values.float() if factors is None else values.float() * factors
    scale = _scale_of(wide)
    return (wide * (1 / scale) if wide.is_cuda else wide / scale).to(FORMAT), scale


def _scale_of(wide: torch.Tensor) -> torch.Tensor:
    return (wide.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=SMALLEST_SCALE)


class Fp8Linear(torch.nn.Module):
    """A frozen linear layer: `weight` in FP8, [outputs, inputs], and `scale`, [outputs, 1].

    `by_columns`: the weight as gradients need it, [inputs, outputs]; None where it is made anew for
    each. `second` and `second_by_columns` are the rounding whose turn it is not; None where it lies
    elsewhere (ml/nn/frozen/layers.py).
    """

    def __init__(self, linear: torch.nn.Linear, *, both_layouts: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = rounded(linear.weight.detach())
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.scale = torch.nn.Parameter(scale, requires_grad=False)
        second = rounded_again(linear.weight.detach(), weight, scale)
        self.by_columns: torch.Tensor | None
        self.second: torch.Tensor | None
        self.second_by_columns: torch.Tensor | None
        for name, data in (("by_columns", weight), ("second_by_columns", second)):
            turned = data.t().contiguous() if both_layouts else None
            self.register_buffer(name, turned, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.turn = 0
        self.bias = linear.bias
        self.rounds_inputs = True

    def take_turn(self, turn: int) -> None:
        """Compute with the first rounding (0) or the second (1) from now on."""
        if turn == self.turn or self.second is None:
            return
        self.turn = turn
        # Compiled layers know these tensors, and read what lies in them.
        self.weight.data, self.second.data = self.second.data, self.weight.data
        first, second = self.by_columns, self.second_by_columns
        if first is not None and second is not None:
            first.data, second.data = second.data, first.data

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.rounds_inputs:
            wide = (self.weight.float() * self.scale).to(x.dtype)
            return torch.nn.functional.linear(x, wide, self.bias)
        out: torch.Tensor = _Product.apply(x, self.weight, self.scale, self.by_columns)
        return out if self.bias is None else out + self.bias


def layers_of(model: torch.nn.Module) -> list[Fp8Linear]:
    """Return a model's layers in FP8."""
    return [module for module in model.modules() if isinstance(module, Fp8Linear)]


def seconds_of(model: torch.nn.Module) -> Callable[[torch.nn.Parameter], torch.Tensor | None]:
    """Return what takes the second rounding of a weight out of its layer; None where it has none.

    It is called for each weight that lies elsewhere from then on.
    """
    layers = {layer.weight: layer for layer in layers_of(model)}

    def take(weight: torch.nn.Parameter) -> torch.Tensor | None:
        if weight not in layers:
            return None
        second, layers[weight].second = layers[weight].second, None
        return second

    return take


@contextmanager
def plain_inputs(model: torch.nn.Module) -> Iterator[None]:
    """Multiply with what weights in FP8 stand for, and round nothing else, inside the context.

    Two ways to compute one result, which differ in their last bits, round some inputs to other
    numbers of FP8, and are some per cent apart; so they are not to be compared.
    """
    layers = layers_of(model)
    for layer in layers:
        layer.rounds_inputs = False
    try:
        yield
    finally:
        for layer in layers:
            layer.rounds_inputs = True


class _Product(torch.autograd.Function):
    """x W', and its gradient by x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        scale: torch.Tensor,
        by_columns: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(weight, scale, by_columns)
        left, left_scale = _rounded_fast(x.reshape(-1, x.shape[-1]))
        out = scaled_product(left, left_scale, weight.t(), scale.t(), x.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        weight, scale, by_columns = ctx.saved_tensors
        gradient = grads[0].reshape(-1, grads[0].shape[-1])
        left, left_scale = _rounded_fast(gradient, scale.flatten())
        # Hopper multiplies FP8 matrices of one layout only: the right one by columns.
        right = (weight.t().contiguous() if by_columns is None else by_columns).t()
        ones = torch.ones(1, weight.shape[1], device=weight.device)
        out = scaled_product(left, left_scale, right, ones, grads[0].dtype)
        return out.view(*grads[0].shape[:-1], -1), None, None, None


def scaled_product(
    left: torch.Tensor,
    left_scale: torch.Tensor,
    right: torch.Tensor,
    right_scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return (left * left_scale) (right * right_scale), [n, k] by [k, m] in FP8.

    `left_scale` is [n, 1], `right_scale` [1, m], and `right` lies by columns. A card sums as its
    tensor cores do by themselves (`use_fast_accum`): on Hopper 10 to 15 % faster than in float32,
    and 0.002 to 0.003 off where that is 0.0017 off, of what FP8 itself is 0.037 off.
    """
    on_card = left.device.type != "cpu"
    # Cards have kernels by rows for bfloat16 alone.
    out: torch.Tensor = torch._scaled_mm(
        left,
        right,
        scale_a=left_scale,
        scale_b=right_scale.contiguous(),
        out_dtype=torch.bfloat16 if on_card else dtype,
        use_fast_accum=on_card,
    )
    return out.to(dtype)


@torch.no_grad()
def quantise_base(model: Any, *, both_layouts: bool = False) -> tuple[int, int]:
    """Give the frozen linear layers inside the decoder layers of peft's `model` FP8 weights.

    `both_layouts`: by rows and by columns, which saves time and takes twice the memory: four bytes
    a weight for its two roundings, instead of two. Return how many there are, and how many stay as
    they are since a size is no multiple of 16.
    """
    count = left_out = 0
    for layer in decoder_layers(model):
        frozen = [
            (parent, name, module)
            for parent in layer.modules()
            for name, module in parent.named_children()
            if type(module) is torch.nn.Linear and not module.weight.requires_grad
        ]
        for parent, name, module in frozen:
            if module.in_features % MULTIPLE or module.out_features % MULTIPLE:
                left_out += 1
                continue
            setattr(parent, name, Fp8Linear(module, both_layouts=both_layouts))
            count += 1
    return count, left_out
