"""GPTQ: weights rounded to 4 bits in an order, each error made up for by those that come later.

Frantar et al. 2023, https://arxiv.org/abs/2210.17323 (https://github.com/IST-DASLab/gptq). The
error of a matrix W [n, k] that is rounded to Q is tr((W - Q) H (W - Q)^T), with the second moments
H [k, k] of its inputs. The published algorithm takes rows of a Cholesky factor of the inverse of H.
Here H = R R^T with an upper R, so that the error is the sum over columns c of
(sum over j <= c of (w_j - q_j) R[j, c])^2, and each q_c in turn makes its term as small as it can:
the same numbers (Babai's nearest plane, https://arxiv.org/abs/2507.18553), and no inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from olivebuild.ml.kernels.blockwise import STORED, Quantiser, narrow, widen

TOP, MIDDLE = np.float32(15), np.float32(8)
"""The highest level of 4 bits, and the level of zero where no zero points are stored."""
DAMPING = 0.1
"""What is added to the moments' diagonal, as a share of its mean.

The published value is 0.01. By moments of the merged model, answers to rows beyond the
calibration's differ less with 0.1 (docs/log.md).
"""
STEP = 128
"""Columns whose errors are taken into account one by one; the published value."""
SHRINKS = tuple(np.float32(1 - 0.06 * i) for i in range(6))
"""Factors of a block's range that are tried for its scale."""


@dataclass(frozen=True)
class Factor:
    """The order in which columns are rounded, and what an error of one moves the later ones by.

    `order` int64 [k]. `feedback` float32 [k, k], lower triangular with zeros on its diagonal, in
    that order: row c holds what the errors of the columns before add to column c. `weight` float32
    [k]: the moments' diagonal, in the order of the matrix.
    """

    order: np.ndarray
    feedback: np.ndarray
    weight: np.ndarray


def factor(moments: np.ndarray) -> Factor:
    """Return the factor of second moments, float64 [k, k]: the largest columns come first.

    The layout has no say in the order, since a block's scale is known before its columns are
    rounded (`act-order` with `static-groups`).
    """
    diagonal = np.diagonal(moments).astype(np.float32)
    order = np.argsort(-diagonal, kind="stable")
    damped = moments[np.ix_(order, order)].astype(np.float64, copy=False)
    mean = float(np.mean(np.diagonal(damped)))
    damped[np.diag_indices_from(damped)] += DAMPING * mean if mean > 0 else 1.0
    # In reverse order a lower factor is an upper one.
    upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    feedback = (upper / np.diagonal(upper)).T.astype(np.float32)
    np.fill_diagonal(feedback, 0)
    return Factor(order, np.ascontiguousarray(feedback), diagonal)


@dataclass(frozen=True)
class Rounded:
    """A rounded matrix: `levels` uint8 [n, k], `scales` as stored and `zeros` uint8 [n, k / block].

    Each weight is (level - zero) * scale.
    """

    levels: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray

    def values(self, dtype: str, block: int) -> np.ndarray:
        """Return what the levels stand for, float32 [n, k]; `dtype` is that of the scales."""
        n, k = self.levels.shape
        blocks = self.levels.reshape(n, k // block, block).astype(np.float32)
        blocks -= self.zeros[:, :, None]
        blocks *= widen(self.scales, dtype)[:, :, None]
        return blocks.reshape(n, k)

    def parts(self, quantiser: Quantiser) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return packed values, scales and zero points as `quantiser` gives them."""
        packed = self.levels[:, 0::2] | (self.levels[:, 1::2] << 4)
        zeros = np.empty(0, np.uint8)
        if not quantiser.symmetric:
            zeros = quantiser.pack_zeros(self.zeros)
        return packed.reshape(-1, quantiser.block // 2), self.scales, zeros

    def where(self, mask: np.ndarray, other: Rounded) -> Rounded:
        """Return these rows where `mask` [n] is true, and others' elsewhere."""
        pairs = zip(
            (self.levels, self.scales, self.zeros),
            (other.levels, other.scales, other.zeros),
            strict=True,
        )
        return Rounded(*(np.where(mask[:, None], a, b) for a, b in pairs))


def of_parts(parts: tuple[np.ndarray, np.ndarray, np.ndarray], shape: tuple[int, int]) -> Rounded:
    """Return what a 4-bit quantiser made of a matrix of this shape [n, k]."""
    packed, scales, packed_zeros = parts
    pairs = packed.reshape(shape[0], -1)
    levels = np.empty(shape, np.uint8)
    levels[:, 0::2], levels[:, 1::2] = pairs & 15, pairs >> 4
    zeros = np.full(scales.shape, MIDDLE, np.uint8)
    if packed_zeros.size:
        wide = np.stack([packed_zeros & 15, packed_zeros >> 4], 2).reshape(shape[0], -1)
        zeros = np.ascontiguousarray(wide[:, : scales.shape[1]])
    return Rounded(levels, scales, zeros)


def of_stored(parts: Sequence[bytes], dtype: str, shape: tuple[int, int]) -> Rounded:
    """Return a matrix of this shape [n, k] from its stored parts; `dtype` is that of the scales."""
    packed, points = (np.frombuffer(part, np.uint8) for part in (parts[0], parts[2]))
    scales = np.frombuffer(parts[1], STORED[dtype]).reshape(shape[0], -1)
    if points.size:
        points = points.reshape(shape[0], -1)
    return of_parts((packed, scales, points), shape)


@dataclass(frozen=True)
class Grid:
    """Of each block the scale, as stored, and the zero point, uint8; [n, k / block]."""

    scales: np.ndarray
    zeros: np.ndarray


def grid_of(values: np.ndarray, weight: np.ndarray, quantiser: Quantiser, first: Rounded) -> Grid:
    """Return for each block the scale and zero point of the least weighted squared error.

    `values` float32 [n, k], `weight` float32 [k], and each weight goes to its nearest level. Those
    of `first` are tried first, then shares of the block's range. Scales are tried as they are
    stored. Without zero points the block's value of larger magnitude, times a
    factor, is at level 0 or at level 15.
    """
    block = quantiser.block
    blocks = values.reshape(len(values), -1, block)
    high, low = blocks.max(2).clip(min=0), blocks.min(2).clip(max=0)
    weights = weight.reshape(-1, block)
    best, least = Grid(first.scales, first.zeros), np.full(first.scales.shape, np.inf)
    tried = [(narrow(s, quantiser.scales), z) for s, z in _candidates(high, low, quantiser)]
    for stored, zero in ((first.scales, first.zeros), *tried):
        wide, middle = widen(stored, quantiser.scales)[:, :, None], zero[:, :, None]
        wrong = _levels(blocks, wide, middle)
        wrong -= middle
        wrong *= wide
        wrong -= blocks
        wrong *= wrong
        error = np.einsum("nbj,bj->nb", wrong, weights)
        better = error < least
        least = np.where(better, error, least)
        best = Grid(np.where(better, stored, best.scales), np.where(better, zero, best.zeros))
    return best


def _candidates(
    high: np.ndarray, low: np.ndarray, quantiser: Quantiser
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return scales (float32) and zero points (uint8) for blocks whose values end at these."""
    found = []
    for shrink in SHRINKS:
        if quantiser.symmetric:
            ends = np.where(high > -low, high, low) * shrink
            zero = np.full(ends.shape, MIDDLE, np.uint8)
            found += [(ends / -MIDDLE, zero), (ends / (TOP - MIDDLE), zero)]
            continue
        scale = (high - low) * shrink / TOP
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = np.where(scale != 0, np.float32(0.5) - low * shrink / scale, np.float32(0))
        found.append((scale, np.clip(np.floor(zero), 0, TOP).astype(np.uint8)))
    return found


def _levels(values: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return the nearest levels, as float32."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        levels = values * np.where(scale != 0, np.float32(1) / scale, np.float32(0))
    levels += zero
    levels += np.float32(0.5)
    return np.clip(np.floor(levels, out=levels), 0, TOP, out=levels)


def round_to(values: np.ndarray, grid: Grid, of: Factor, quantiser: Quantiser) -> Rounded:
    """Return `values`, float32 [n, k], rounded to a grid's scales and zero points by GPTQ."""
    k, block = values.shape[1], quantiser.block
    columns = np.ascontiguousarray(values.T[of.order])
    scales = np.ascontiguousarray(widen(grid.scales, quantiser.scales).T)
    zeros = np.ascontiguousarray(grid.zeros.T.astype(np.float32))
    levels, errors = np.empty(columns.shape, np.uint8), np.empty_like(columns)
    for start in range(0, k, STEP):
        end = min(start + STEP, k)
        wanted = columns[start:end].copy()
        if start:
            wanted += of.feedback[start:end, :start] @ errors[:start]
        for c in range(start, end):
            group = of.order[c] // block
            value = wanted[c - start]
            if c > start:
                value += of.feedback[c, start:c] @ errors[start:c]
            level = _levels(value, scales[group], zeros[group])
            levels[c] = level
            errors[c] = columns[c] - (level - zeros[group]) * scales[group]
    unordered = np.empty_like(levels)
    unordered[of.order] = levels
    return Rounded(np.ascontiguousarray(unordered.T), grid.scales, grid.zeros)


def errors_of(wrong: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return the diagonal of D H D^T, float64 [n], for `wrong` D [n, k] and moments H [k, k]."""
    return np.asarray(np.einsum("nk,nk->n", wrong @ moments, wrong, dtype=np.float64))
