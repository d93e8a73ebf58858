"""GPTQ of weights: what it loses, beside the published algorithm and rounding to the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from olivebuild.ml.kernels import gptq
from olivebuild.ml.kernels.blockwise import Quantiser, narrow, widen

N, K, BLOCK = 48, 256, 32
QUANTISERS = [
    Quantiser(4, BLOCK, True, "F32"),
    Quantiser(4, BLOCK, False, "F32"),
    Quantiser(4, BLOCK, True, "F16"),
    Quantiser(4, BLOCK, False, "BF16"),
]


def correlated(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights, float32 [N, K], and the moments of inputs that depend on each other."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((K, K)) * np.exp(-np.arange(K) / 40)[:, None]
    inputs = random.standard_normal((2000, K)) @ mixed + 0.1 * random.standard_normal((2000, K))
    weights = random.standard_normal((N, K)).astype(np.float32) * np.float32(0.05)
    return weights, inputs.T @ inputs / len(inputs)


def nearest(weights: np.ndarray, quantiser: Quantiser) -> gptq.Rounded:
    dtype = quantiser.scales
    return gptq.of_parts(quantiser(narrow(weights, dtype), dtype), (N, K))


def lost(weights: np.ndarray, rounded: gptq.Rounded, moments: np.ndarray, scales: str) -> float:
    wrong = weights.astype(np.float64) - rounded.values(scales, BLOCK)
    return float(np.trace(wrong @ moments @ wrong.T))


def as_published(weights: np.ndarray, grid: gptq.Grid, moments: np.ndarray) -> np.ndarray:
    """GPTQ as its authors write it (gptq.py of IST-DASLab/gptq): static groups, act-order, float64,
    but for how much it is damped.

    Returns levels [N, K].
    """
    order = np.argsort(-np.diagonal(moments), kind="stable")
    w, h = weights.astype(np.float64)[:, order], moments[np.ix_(order, order)].copy()
    h[np.diag_indices(K)] += gptq.DAMPING * np.mean(np.diagonal(h))
    inverse = np.linalg.cholesky(np.linalg.inv(h)).T
    levels = np.empty(w.shape, np.uint8)
    for i in range(K):
        group = order[i] // BLOCK
        scale, zero = grid.scales[:, group].astype(np.float64), grid.zeros[:, group]
        level = np.clip(np.floor(w[:, i] / scale + zero + 0.5), 0, 15)
        error = (w[:, i] - (level - zero) * scale) / inverse[i, i]
        w[:, i:] -= np.outer(error, inverse[i, i:])
        levels[:, order[i]] = level
    return levels


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_it_loses_less_than_rounding_to_the_nearest(seed: int, quantiser: Quantiser) -> None:
    weights, moments = correlated(seed)
    weights = widen(narrow(weights, quantiser.scales), quantiser.scales)
    of = gptq.factor(moments)
    plain = nearest(weights, quantiser)
    grid = gptq.grid_of(weights, of.weight, quantiser, nearest(weights, quantiser))
    rounded = gptq.round_to(weights, grid, of, quantiser)
    before = lost(weights, plain, moments, quantiser.scales)
    assert lost(weights, rounded, moments, quantiser.scales) < 0.5 * before


@pytest.mark.parametrize("symmetric", [True, False])
def test_levels_are_those_of_the_published_algorithm(symmetric: bool) -> None:
    quantiser = Quantiser(4, BLOCK, symmetric, "F32")
    weights, moments = correlated(7)
    of = gptq.factor(moments)
    grid = gptq.grid_of(weights, of.weight, quantiser, nearest(weights, quantiser))
    ours = gptq.round_to(weights, grid, of, quantiser).levels
    # A value between two levels goes either way by the last bit, and moves those after it.
    rows = (ours == as_published(weights, grid, moments)).all(axis=1)
    assert rows.mean() > 0.9


def test_inputs_that_depend_on_nothing_are_rounded_to_the_nearest() -> None:
    quantiser = QUANTISERS[0]
    weights, _ = correlated(1)
    plain = nearest(weights, quantiser)
    grid = gptq.Grid(plain.scales, plain.zeros)
    rounded = gptq.round_to(weights, grid, gptq.factor(np.eye(K)), quantiser)
    wrong = rounded.values("F32", BLOCK) - plain.values("F32", BLOCK)
    assert np.abs(wrong).max() < 1e-6 or (wrong != 0).mean() < 1e-3


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
def test_parts_have_the_places_and_bytes_of_rounding_to_the_nearest(quantiser: Quantiser) -> None:
    """With the same levels and scales, so that the same kernels read them."""
    weights, _ = correlated(2)
    theirs = quantiser(narrow(weights, quantiser.scales), quantiser.scales)
    for mine, other in zip(nearest(weights, quantiser).parts(quantiser), theirs, strict=True):
        assert mine.shape == other.shape
        assert np.array_equal(mine, other)


def test_inputs_that_are_always_zero_are_no_obstacle() -> None:
    quantiser = QUANTISERS[0]
    weights, moments = correlated(3)
    moments[:BLOCK], moments[:, :BLOCK] = 0, 0
    for seen in (moments, np.zeros((K, K))):
        of = gptq.factor(seen)
        grid = gptq.grid_of(weights, of.weight, quantiser, nearest(weights, quantiser))
        rounded = gptq.round_to(weights, grid, of, quantiser)
        assert np.isfinite(rounded.values("F32", BLOCK)).all()


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
def test_scales_of_the_search_lose_no_more_than_those_of_the_block_itself(
    quantiser: Quantiser,
) -> None:
    weights, moments = correlated(4)
    weight = np.diagonal(moments).astype(np.float32)
    grid = gptq.grid_of(weights, weight, quantiser, nearest(weights, quantiser))
    plain = nearest(weights, quantiser)
    diagonal = np.diag(np.diagonal(moments))
    near = gptq.round_to(weights, grid, gptq.factor(np.eye(K)), quantiser)
    assert lost(weights, near, diagonal, quantiser.scales) <= 1.001 * lost(
        weights, plain, diagonal, quantiser.scales
    )
