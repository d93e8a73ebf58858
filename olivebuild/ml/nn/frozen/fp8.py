"""Frozen weights of linear layers in FP8, and products with them in FP8.

Weights are float8_e4m3fn with a scale for each row (output channel), rounded once. What is
multiplied with them is rounded alike for each token: the input, and in the backward pass the
gradient by the output, with the weight's scales in it. So both products take the same weight, and
none has a sum over what is scaled apart. torchao's rowwise recipe takes e4m3 for gradients, too
(torchao/float8/config.py, Float8LinearRecipeName.ROWWISE): with a scale for each row they don't
need the range of e5m2. LoRA's products stay as they are.

What is learnt goes into the base's own weights when it is merged.
"""

from __future__ import annotations

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
    scale = (wide.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=SMALLEST_SCALE)
    return (wide / scale).to(FORMAT), scale


class Fp8Linear(torch.nn.Module):
    """A frozen linear layer: `weight` in FP8, [outputs, inputs], and `scale`, [outputs, 1]."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = rounded(linear.weight.detach())
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.scale = torch.nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Product.apply(x, self.weight, self.scale)
        return out if self.bias is None else out + self.bias


class _Product(torch.autograd.Function):
    """x W', and its gradient by x."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        left, left_scale = rounded(x.reshape(-1, x.shape[-1]))
        out = scaled_product(left, left_scale, weight.t(), scale.t(), x.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        gradient = grads[0].reshape(-1, grads[0].shape[-1])
        left, left_scale = rounded(gradient.float() * scale.t())
        # Hopper multiplies FP8 matrices of one layout only: the right one by columns.
        right = weight.t().contiguous().t()
        ones = torch.ones(1, weight.shape[1], device=weight.device)
        out = scaled_product(left, left_scale, right, ones, grads[0].dtype)
        return out.view(*grads[0].shape[:-1], -1), None, None


def scaled_product(
    left: torch.Tensor,
    left_scale: torch.Tensor,
    right: torch.Tensor,
    right_scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return (left * left_scale) (right * right_scale), [n, k] by [k, m] in FP8, summed in float32.

    `left_scale` is [n, 1], `right_scale` [1, m], and `right` lies by columns.
    """
    # Cards have kernels by rows for bfloat16 alone.
    out_dtype = dtype if left.device.type == "cpu" else torch.bfloat16
    out: torch.Tensor = torch._scaled_mm(
        left,
        right,
        scale_a=left_scale,
        scale_b=right_scale.contiguous(),
        out_dtype=out_dtype,
    )
    return out.to(dtype)


@torch.no_grad()
def quantise_base(model: Any) -> tuple[int, int]:
    """Give the frozen linear layers inside the decoder layers of peft's `model` FP8 weights.

    Return how many there are, and how many stay as they are since a size is no multiple of 16.
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
            setattr(parent, name, Fp8Linear(module))
            count += 1
    return count, left_out
