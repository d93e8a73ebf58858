"""Arithmetic on weights, bit-equal to torch's and to ONNX Runtime's, without importing torch.

Importing torch costs more time and memory than a small model's whole rebuild. Numbers in bfloat16
are held as uint16. Each function is numpy's; where _native.c was compiled, it does the same work
with the same bits, several times faster.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

native: ModuleType | None
try:
    from olivebuild import _native as native
except ImportError:
    # It was installed without a compiler.
    native = None

STORED: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
"""How the number formats of safetensors are held."""
INFINITY = {
    "F32": ("i4", 0x7F800000),
    "F16": ("i2", 0x7C00),
    "BF16": ("i2", 0x7F80),
    "F64": ("i8", 0x7FF0000000000000),
}
"""The bits of infinity, as a signed number; NaNs lie above.

With the sign bit, and read as unsigned, likewise.
"""
ROWS = 256
"""Rows of a matrix that are worked on at once: small enough for the cache, large enough for the
BLAS.
"""
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
BLOCKS = 8192
"""Quantisation blocks that are worked on at once."""
FORMATS = {"BF16": 0, "F16": 1, "F32": 2}
"""The number formats as _native.c counts them."""


def widen(values: np.ndarray, dtype: str) -> np.ndarray:
    """Stored numbers as float32: exact."""
    if dtype == "BF16":
        wide = np.zeros(values.shape, np.float32)
        wide.view(np.uint16).reshape(*values.shape, 2)[..., 1] = values
        return wide
    return values.astype(np.float32)


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 as stored numbers, rounded to nearest, ties to even; NaN stays NaN."""
    if dtype == "BF16":
        values = np.require(values, requirements="C")
        bits = values.view(np.uint32)
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits
        short = rounded.view(np.uint16).reshape(*values.shape, 2)[..., 1].copy()
        with np.errstate(invalid="ignore", over="ignore"):
            total = values.sum()
        if np.isnan(total):
            short[np.isnan(values)] = 0x7FC0
        return short
    with np.errstate(over="ignore"):
        return values.astype(STORED[dtype], copy=False)


# The BLAS of torch


@functools.cache
def _torch_sgemm() -> Any:
    """Return `sgemm_` of the BLAS inside torch's library, without importing torch; or None.

    `torch.matmul` calls it for float32 on x86. With it comes the function that limits the calling
    thread's threads, if the library is MKL; else None. The Fortran interface of BLAS is a standard:
    https://www.netlib.org/blas/#_level_3
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    library = Path(next(iter(spec.submodule_search_locations)), "lib", "libtorch_cpu.so")
    try:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        loaded = ctypes.CDLL(str(library))
        return loaded.sgemm_, getattr(loaded, "MKL_Set_Num_Threads_Local", None)
    except (OSError, AttributeError):
        return None


def product(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return `b @ a` in float32, bit-equal to torch on this machine.

    [n, r] x [r, k] -> [n, k], all contiguous.
    """
    functions = _torch_sgemm()
    if functions is None:
        import torch

        return np.asarray((torch.from_numpy(b) @ torch.from_numpy(a)).numpy())
    sgemm, set_threads = functions
    if set_threads:
        # One thread a call: the callers are threads themselves. Where torch was imported before, it
        # has set another number.
        before = set_threads(1)
    (n, r), k = b.shape, a.shape[1]
    out = np.empty((n, k), np.float32)

    def whole(number: int) -> Any:
        return ctypes.byref(ctypes.c_int(number))

    def real(number: float) -> Any:
        return ctypes.byref(ctypes.c_float(number))

    def data(array: np.ndarray) -> Any:
        return array.ctypes.data_as(ctypes.c_void_p)

    no = ctypes.c_char_p(b"n")
    # Fortran counts by columns: its a.T @ b.T is our (b @ a).T.
    sgemm(
        no,
        no,
        whole(k),
        whole(n),
        whole(r),
        real(1.0),
        data(a),
        whole(k),
        data(b),
        whole(r),
        real(0.0),
        data(out),
        whole(k),
    )
    if set_threads:
        set_threads(before)
    return out


def product_reproducible(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return `b @ a` with float64 products added in one fixed order, rounded once.

    The bytes are the same on every processor.
    """
    total = np.zeros((len(b), a.shape[1]), np.float64)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    term = np.empty_like(total)
    for i in range(a.shape[0]):
        np.multiply(wide_b[:, i : i + 1], wide_a[i], out=term)
        total += term
    return total.astype(np.float32)


def product_native(b: np.ndarray, a: np.ndarray) -> np.ndarray | None:
    """Return `b @ a` in float32; None without _native.c or its kernel.

    Each element is a chain of fused multiply-adds from the first term to the last.
    """
    if native is None or not native.HAS_PRODUCT:
        return None
    (n, r), k = b.shape, a.shape[1]
    out = np.empty((n, k), np.float32)
    native.product(b, a, out, n, r, k)
    return out


def add_delta(weight: np.ndarray, dtype: str, delta: np.ndarray, scale: float) -> np.ndarray:
    """Return rows of a weight, as stored numbers, plus `delta * scale`: peft's `merge`.

    The sum is in float32 and rounded once. Overwrites `delta`.
    https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/layer.py
    """
    if native is not None:
        out = np.empty(weight.shape, STORED[dtype])
        native.add_delta(
            np.ascontiguousarray(weight), FORMATS[dtype], delta, float(np.float32(scale)), out
        )
        return out
    delta *= np.float32(scale)
    delta += widen(weight, dtype)
    return narrow(delta, dtype)


def residual(
    before: np.ndarray, after: np.ndarray, dtype: str, probe: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (after - before) @ probe, and the squared length of `after`, for each row.

    Rows are stored numbers [n, k], the results float64 [n].
    """
    if native is not None:
        wrong, squares = np.empty(len(after)), np.empty(len(after))
        native.residual(before, after, FORMATS[dtype], probe, wrong, squares)
        return wrong, squares
    wide, base = widen(after, dtype), widen(before, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        # By einsum and not by @: numpy's own BLAS would start a thread for each processor in each
        # of ours.
        moved = np.einsum("ij,j->i", wide, probe) - np.einsum("ij,j->i", base, probe)
        return moved.astype(np.float64), np.einsum("ij,ij->i", wide, wide).astype(np.float64)


# Block-wise quantisation


@dataclass(frozen=True)
class Quantiser:
    """The default algorithm of ONNX Runtime's MatMulNBits quantiser.

    Blocks run along the rows of [n, k], with k % block == 0.
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/mlas/lib/q4_dq.cpp
    """

    bits: int
    block: int
    symmetric: bool
    scales: str
    """F32; F16 or BF16 on weights in that format: the builds for CUDA, DirectML and WebGPU."""

    def __call__(
        self, weight: np.ndarray, dtype: str = "F32"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Quantise stored numbers [n, k].

        Returns packed uint8 [n * k / block, block * bits / 8], scales [n, k / block], and zero
        points uint8 (symmetric: none).
        """
        rows, columns = weight.shape
        count = rows * columns // self.block
        packed = np.empty((count, self.block * self.bits // 8), np.uint8)
        scales = np.empty(count, STORED[self.scales])
        zeros = np.empty(0 if self.symmetric else count, np.uint8)
        if not self._by_native(weight, dtype, packed, scales, zeros):
            source = widen(weight, dtype).reshape(-1, self.block)
            for start in range(0, count, BLOCKS):
                part = slice(start, start + BLOCKS)
                packed[part], scales[part], points = self._blocks(
                    np.ascontiguousarray(source[part].T)
                )
                zeros[part] = points if zeros.size else 0
        scales = scales.reshape(rows, columns // self.block)
        return (
            packed,
            scales,
            zeros if self.symmetric else self.pack_zeros(zeros.reshape(scales.shape)),
        )

    def _by_native(
        self,
        weight: np.ndarray,
        dtype: str,
        packed: np.ndarray,
        scales: np.ndarray,
        zeros: np.ndarray,
    ) -> bool:
        """Quantise with _native.c.

        Returns False where it was not compiled, and for numbers that are not finite.
        """
        if native is None:
            return False
        settings = (FORMATS[dtype], self.block, self.bits, self.symmetric, FORMATS[self.scales])
        return bool(native.quantise(np.ascontiguousarray(weight), *settings, packed, scales, zeros))

    def _blocks(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        """Quantise float32 [block, m], which is overwritten.

        Returns packed values [m, bytes], scales [m], zero points [m].
        """
        top, middle = np.float32(2**self.bits - 1), np.float32(2 ** (self.bits - 1))
        high: np.ndarray = np.maximum.reduce(values, 0)
        low: np.ndarray = np.minimum.reduce(values, 0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.symmetric:
                # The value of larger magnitude is hit exactly, by the one level that has no
                # opposite.
                ends = np.where(high > -low, high, low)
                # A scale of zero has the sign of the block's first zero.
                scale = np.where(ends == 0, values[0], ends) / -middle
                zero: Any = middle
            else:
                high, low = np.maximum(high, 0), np.minimum(low, 0)
                scale = (high - low) / top
                zero = np.where(scale != 0, low / scale, np.float32(0))
                zero = np.clip(np.floor(np.float32(0.5) - zero), 0, top)
            stored = narrow(scale, self.scales)
            # ONNX Runtime computes with the float16 that it stores, but has no kernel for bfloat16
            # and rounds that at the end.
            used = stored.astype(np.float32) if self.scales == "F16" else scale
            values *= np.where(used != 0, np.float32(1) / used, np.float32(0))
        values += zero
        values += np.float32(0.5)
        np.maximum(values, 0, out=values)
        np.minimum(values, top + np.float32(0.5), out=values)
        levels = values.astype(np.uint8)
        if self.bits == 4:
            pairs = levels[1::2]
            pairs <<= 4
            pairs |= levels[0::2]
            levels = pairs
        return levels.T, stored, np.asarray(zero).astype(np.uint8)

    def pack_zeros(self, zeros: np.ndarray) -> np.ndarray:
        """uint8 [n, blocks] -> two a byte for 4 bits, each row padded with the middle."""
        if self.bits == 8:
            return zeros
        if zeros.shape[1] % 2:
            zeros = np.pad(zeros, ((0, 0), (0, 1)), constant_values=8)
        return np.asarray(zeros[:, 0::2] | (zeros[:, 1::2] << 4))


def in_threads(work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Return `work` of each item, a few at once in threads.

    numpy and the BLAS let go of the interpreter while they compute.
    """
    _keep_memory()
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


@functools.cache
def _keep_memory() -> None:
    """Let the C library keep freed memory.

    It would give each array back to the system, and half the time goes into getting it again.
    https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    try:
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in (
            (mmap_threshold, 32 << 20),
            (trim_threshold, 256 << 20),
            (arena_max, 1),
        ):
            mallopt(parameter, value)
    except (OSError, AttributeError, TypeError):
        # Another C library: it keeps or not as it likes.
        return


def is_finite(values: np.ndarray | bytes, dtype: str) -> bool:
    """Return whether none of some stored numbers is NaN or infinite.

    `dtype` is safetensors' name, one of INFINITY.
    """
    signed, infinity = INFINITY[dtype]
    numbers = (
        np.frombuffer(values, f"<{signed}")
        if isinstance(values, bytes)
        else values.view(f"<{signed}")
    )
    if not numbers.size:
        return True
    # Two searches for a maximum are as fast as memory; of negative numbers only NaN and -infinity
    # are that high, read without a sign.
    sign = 1 << (8 * numbers.dtype.itemsize - 1)
    return (
        int(numbers.max()) < infinity
        and int(numbers.view(f"<u{signed[1]}").max()) < sign + infinity
    )
