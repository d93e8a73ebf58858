"""Weights as a conversion rounds them, in torch: the values that the rounded ones stand for.

On a processor by the conversion's own quantiser, ml/kernels/blockwise.py. On a GPU by the same
operations, so that levels and scales have the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from olivebuild.ml.kernels.blockwise import Quantiser, narrow, widen

NUMBERS = 1 << 25
"""Numbers that are rounded at once on a GPU."""
TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Number formats by safetensors' names."""


@dataclass(frozen=True)
class Grid:
    """The rounding of a weight [n, k] to `bits`, in blocks of `block` along k.

    Number formats are safetensors' names.
    """

    bits: int
    block: int
    symmetric: bool
    scales: str
    """Of the blocks' scales."""
    cast: str
    """Of the weight before it is rounded."""
    stored: str
    """Of the weight in the model that is converted."""


class Rounded(NamedTuple):
    """A rounded weight [n, k]: a byte a number, or two for 8 bits with zero points."""

    levels: torch.Tensor
    """Less their zero points, [n * k / block, block]."""
    scales: torch.Tensor
    """float32 [n * k / block, 1]."""
    shape: torch.Size

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the numbers that the conversion's product computes with, [n, k]."""
        return self.levels.float().mul_(self.scales).to(dtype).view(self.shape)


@torch.no_grad()
def rounded(weight: torch.Tensor, grid: Grid) -> Rounded:
    """Return what a weight [n, k] of any dtype is once it is converted."""
    return _rounded(weight.to(torch.float32, copy=True), grid)


@torch.no_grad()
def merged_and_rounded(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, grid: Grid
) -> Rounded:
    """Return what weight + scale * b @ a is once it is merged and converted.

    [n, k], [r, k], [n, r]. The merge is that of ml/kernels/blockwise.add_delta: in float32, rounded
    to what the model is stored in.
    """
    return _rounded((b.float() @ a.float()).mul_(scale).add_(weight), grid)


def _rounded(values: torch.Tensor, grid: Grid) -> Rounded:
    """Round float32 [n, k], which is overwritten."""
    dtype = torch.int8 if grid.bits == 4 or grid.symmetric else torch.int16
    for name in (grid.stored, grid.cast):
        if name != "F32":
            values.copy_(values.to(TORCH[name]))
    if values.device.type == "cpu":
        return _by_conversion(values, grid, dtype)
    pieces = values.split(max(1, NUMBERS // values.shape[1]))
    pairs = [(blocks.to(dtype), scales) for blocks, scales in (_round(p, grid) for p in pieces)]
    return Rounded(torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs]), values.shape)


def _by_conversion(values: torch.Tensor, grid: Grid, dtype: torch.dtype) -> Rounded:
    """Round float32 [n, k] by the conversion's own quantiser, and unpack what it gives."""
    quantise = Quantiser(grid.bits, grid.block, grid.symmetric, grid.scales)
    # Numbers that were rounded to another format are the same in float32; the kernel asks for the
    # format where scales are computed in it.
    packed, scales, points = quantise(narrow(values.numpy(), grid.cast), grid.cast)
    wide = torch.from_numpy(widen(scales, grid.scales)).view(-1, 1)
    levels = _unpacked(torch.from_numpy(packed), grid.bits)
    if grid.symmetric:
        levels = levels.sub_(2 ** (grid.bits - 1)) if grid.bits == 4 else levels.bitwise_xor_(-128)
        return Rounded(levels, wide, values.shape)
    zeros = _unpacked(torch.from_numpy(points), grid.bits).view(len(values), -1)
    zeros = zeros[:, : values.shape[1] // grid.block].reshape(-1, 1)
    return Rounded(_unsigned(levels).sub_(_unsigned(zeros)).to(dtype), wide, values.shape)


def _unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [m, bytes] -> a byte a number, int8; of 8 bits the same bits."""
    if bits == 8:
        return packed.view(torch.int8)
    levels = torch.empty((*packed.shape, 2), dtype=torch.int8)
    levels[..., 0] = packed & 15
    levels[..., 1] = packed >> 4
    return levels.flatten(-2)


def _unsigned(values: torch.Tensor) -> torch.Tensor:
    """int8 whose bits are those of uint8 -> int16."""
    return values.view(torch.uint8).to(torch.int16)


def _round(values: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Return levels [m, block], whole numbers in the memory of `values`, and scales [m, 1]."""
    blocks = values.view(-1, grid.block)
    top, middle = float(2**grid.bits - 1), float(2 ** (grid.bits - 1))
    high, low = blocks.amax(1, keepdim=True), blocks.amin(1, keepdim=True)
    none, zero = torch.zeros_like(high), torch.full_like(high, middle)
    if grid.symmetric:
        ends = torch.where(high > -low, high, low)
        scale = torch.where(ends == 0, blocks[:, :1], ends) / -middle
    else:
        high, low = high.clamp(min=0), low.clamp(max=0)
        scale = (high - low) / torch.full_like(high, top)
        zero = (0.5 - torch.where(scale != 0, low / scale, none)).floor().clamp(0, top)
    kept = scale.to(TORCH[grid.scales]).float()
    used = kept if grid.scales == "F16" else scale
    blocks.mul_(torch.where(used != 0, torch.ones_like(used) / used, none))
    blocks.add_(zero).add_(0.5).clamp_(0, top + 0.5).floor_().sub_(zero)
    return blocks, kept
