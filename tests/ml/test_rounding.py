"""Rounding in torch: the values that the conversion's levels, scales and zero points stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivebuild.ml.kernels.blockwise import Quantiser, add_delta, narrow, product, widen
from olivebuild.ml.nn.aware import rounding
from olivebuild.ml.nn.aware.rounding import TORCH, Grid, merged_and_rounded, rounded


def drawn(seed: int) -> np.ndarray:
    """Numbers as weights have them, [n, 96]: some blocks are zeros, some numbers are alike."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((random.integers(1, 6), 96), np.float32)
    values *= 10.0 ** random.integers(-3, 2)
    if seed % 2:
        values = np.round(values * 4) / np.float32(4)
    values[random.random(values.shape) < random.choice([0, 0.2, 0.97])] = -0.0
    return values.astype(np.float32)


def converted(values: np.ndarray, grid: Grid) -> np.ndarray:
    """What the conversion makes of float32 [n, k]: its bytes, multiplied out."""
    rows, columns = values.shape
    stored = narrow(values, grid.stored)
    if grid.cast not in (grid.stored, "F32"):
        stored = narrow(widen(stored, grid.stored), grid.cast)
    dtype = grid.cast if grid.cast != "F32" else grid.stored
    quantise = Quantiser(grid.bits, grid.block, grid.symmetric, grid.scales)
    packed, scales, points = quantise(stored, dtype)
    if grid.bits == 4:
        packed = np.stack([packed & 15, packed >> 4], -1)
    levels = packed.reshape(rows, -1, grid.block).astype(np.float32)
    zero: Any = np.float32(2 ** (grid.bits - 1))
    if not grid.symmetric:
        if grid.bits == 4:
            points = np.stack([points & 15, points >> 4], -1).reshape(rows, -1)
        zero = points[:, : columns // grid.block, None].astype(np.float32)
    return np.asarray(
        ((levels - zero) * widen(scales, grid.scales)[..., None]).reshape(rows, columns)
    )


@settings(max_examples=60)
@given(
    values=st.integers(0, 1 << 32).map(drawn),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32]),
    symmetric=st.booleans(),
    formats=st.sampled_from(
        [("F32", "F32"), ("F32", "F16"), ("F32", "BF16"), ("F16", "F16"), ("BF16", "BF16")]
    ),
)
def test_a_rounded_weight_has_the_bits_of_the_converted_one(
    values: np.ndarray, bits: int, block: int, symmetric: bool, formats: tuple[str, str]
) -> None:
    cast_to, stored = formats
    grid = Grid(bits, block, symmetric, cast_to, cast_to, stored)
    by_kernel = rounded(torch.from_numpy(values), grid)
    ours = by_kernel.values(torch.float32).numpy()
    theirs = converted(values, grid)
    # The sign of a zero says nothing.
    assert np.array_equal((ours + 0).view(np.uint32), (theirs + 0).view(np.uint32))
    # As on a GPU, on this processor.
    cast = torch.from_numpy(values).to(TORCH[grid.stored]).to(TORCH[grid.cast]).float()
    levels, scales = rounding._round(cast.clone(), grid)
    assert torch.equal(levels, by_kernel.levels.float())
    assert torch.equal(scales, by_kernel.scales)
    assert torch.equal(torch.signbit(scales), torch.signbit(by_kernel.scales))


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("rows", [7, 300])
def test_what_is_merged_is_rounded_as_the_merge_stores_it(stored: str, rows: int) -> None:
    random = np.random.default_rng(rows)
    weight = narrow(random.standard_normal((rows, 64), np.float32), stored)
    a, b = (
        random.standard_normal((4, 64), np.float32),
        random.standard_normal((rows, 4), np.float32),
    )
    grid = Grid(4, 32, True, "F32", "F32", stored)
    wide = torch.from_numpy(widen(weight, stored))
    merged = add_delta(weight, stored, product(b, a), 0.3)
    theirs = converted(widen(merged, stored), grid)
    seen = merged_and_rounded(wide, torch.from_numpy(a), torch.from_numpy(b), 0.3, grid)
    ours = seen.values(torch.float32).numpy()
    # The two products add in orders of their own: a number in the middle between two levels, or
    # the largest of its block, may come out on another side.
    assert (np.abs(ours - theirs) > 1e-6).mean() < 2e-3
    assert np.array_equal(wide.numpy(), widen(weight, stored))


def test_a_weight_in_half_precision_stays_in_it() -> None:
    weight = torch.randn(8, 64).to(torch.bfloat16)
    before = weight.clone()
    grid = Grid(4, 32, True, "F32", "F32", "BF16")
    seen = rounded(weight, grid).values(torch.bfloat16)
    assert seen.dtype == torch.bfloat16
    wide = rounded(weight.float(), grid).values(torch.float32)
    assert torch.equal(seen, wide.to(torch.bfloat16))
    assert torch.equal(weight, before)
    assert set(TORCH) == {"F32", "F16", "BF16"}
