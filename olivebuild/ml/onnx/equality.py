"""Proof that a skeleton's recipes give the bytes of the model builder.

Recipes that differ in the names of their weights alone are of one form. One of each form is
evaluated and compared with what the builder's own operations give. Our quantiser is compared with
ONNX Runtime's on some rows of each tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from olivebuild.ml.kernels import blockwise
from olivebuild.ml.onnx.builder import K_QUANT_ON_CPU
from olivebuild.ml.onnx.layout import Recorded, RecordedInitializer, origin_of
from olivebuild.ml.onnx.op_recorder import TORCH, OpRecorder
from olivebuild.ml.onnx.patches import foreign_code
from olivebuild.ml.onnx.skeleton import Quantised, Rows, Skeleton, TensorRecipe, View, rows_of
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.view import Weights

SAMPLE = 64
"""Rows of each tensor on which our quantiser is compared with ONNX Runtime's."""
PIECES = 16
"""Runs of rows of a tensor that are compared with the builder's, the first and the last included.
"""
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Packed values, scales and zero points."""


def prove(
    skeleton: Skeleton,
    recorded: Recorded,
    weights: Weights,
    watcher: OpRecorder,
    forget: Callable[[set[str]], None],
) -> Skeleton:
    """Return the skeleton, all of whose recipes give the builder's bytes.

    `forget` takes the names of weights that need not stay in memory. Raises NotProvenEqual.
    """
    _check_slots(skeleton)
    by_name, forms = weights.by_name, set[str]()
    names = {slot.tensor: slot.name for slot in skeleton.slots if slot.tensor >= 0}
    for number, recipe in enumerate(skeleton.tensors):
        name, form = names[number], recipe.form()
        view = recipe.view.transposed if recipe.quantised else recipe.view
        if not view.shape:
            view = View(view.of, view.offset, (1,), (1,))
        rows = rows_of(view, by_name)
        if form not in forms:
            origin = recorded[origin_of(name, recorded)[0] or ""]
            watcher.fill(origin.tensor)
            tensor = origin.tensor.T if recipe.quantised else origin.tensor
            _compare_rows(name, recipe, rows, tensor.reshape(view.shape), origin)
            forms.add(form)
        if recipe.quantised:
            stored = rows(0, min(SAMPLE, view.shape[0]))
            _compare_kernels(name, _as_torch(stored, recipe), recipe.quantised)
        forget(recipe.sources())
    return skeleton


def _check_slots(skeleton: Skeleton) -> None:
    """Raise NotProvenEqual unless slots fill the data file without sharing bytes."""
    end = 0
    for slot in sorted(skeleton.slots, key=lambda s: s.offset):
        if slot.offset < end:
            raise NotProvenEqual(f"{slot.name} shares its bytes with another tensor")
        end = slot.offset + slot.size
    if end != skeleton.size:
        raise NotProvenEqual("the data file holds more than its tensors")


def _compare_rows(
    name: str, recipe: TensorRecipe, rows: Rows, tensor: torch.Tensor, origin: RecordedInitializer
) -> None:
    """Compare what a recipe gives with the builder's tensor, at most `PIECES` times some rows."""
    starts = list(range(0, tensor.shape[0], blockwise.ROWS))
    last = len(starts) - 1
    for piece in range(min(PIECES, len(starts))):
        start = starts[piece if last < PIECES else piece * last // (PIECES - 1)]
        count = min(blockwise.ROWS, tensor.shape[0] - start)
        stored = tensor[start : start + count].to(origin.dtype).contiguous()
        theirs = stored.flatten().view(torch.uint8).numpy()
        wide = blockwise.widen(np.ascontiguousarray(rows(start, count)), recipe.view.of.dtype)
        ours = blockwise.narrow(wide, recipe.dtype).reshape(-1).view(np.uint8)
        if not np.array_equal(theirs, ours):
            raise NotProvenEqual(f"{name} did not come out as the builder's")


def _as_torch(stored: np.ndarray, recipe: TensorRecipe) -> torch.Tensor:
    """Return stored numbers of a recipe's view as a tensor of the recipe's dtype."""
    wide = blockwise.widen(np.ascontiguousarray(stored), recipe.view.of.dtype)
    return torch.from_numpy(wide).to(TORCH[recipe.dtype])


def _compare_kernels(name: str, rows: torch.Tensor, options: Quantised) -> None:
    """Compare our quantiser with ONNX Runtime's on `rows` [n, k]."""
    columns = np.ascontiguousarray((rows.float() if options.scales == "BF16" else rows).T.numpy())
    kernel = _by_k_quant if options.algorithm == "k_quant" else _by_default
    packed, scales, zeros = kernel(columns, options)
    if options.scales == "BF16":
        scales = blockwise.narrow(scales, "BF16")
    ours = options.kernel(rows.float().numpy())
    for mine, other in zip(ours, (packed, scales, zeros), strict=True):
        if mine.size and not np.array_equal(
            mine.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)
        ):
            raise NotProvenEqual(f"{name} is quantised in another way than known here")


def _by_default(columns: np.ndarray, options: Quantised) -> Parts:
    """Quantise `columns` [k, n] with ONNX Runtime's default algorithm."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    with foreign_code():
        config = DefaultWeightOnlyQuantConfig(
            block_size=options.block, is_symmetric=options.symmetric, bits=options.bits
        )
        packed, scales, zeros = DefaultWeightOnlyQuantizer(config).qbits_block_quant(columns)
    return packed, scales, zeros


def _by_k_quant(columns: np.ndarray, options: Quantised) -> Parts:
    """Quantise `columns` [k, n] with ONNX Runtime's k-quant, and pack its levels."""
    import onnxruntime.quantization.neural_compressor.weight_only as k_quantizer

    count = columns.shape[1]
    quantise = getattr(k_quantizer, K_QUANT_ON_CPU, None)
    if quantise is None:
        raise NotProvenEqual(f"ONNX Runtime has no {K_QUANT_ON_CPU}")
    with np.errstate(all="ignore"), foreign_code():
        levels, scales, zeros = quantise(columns.T, options.bits, options.block)
    if levels.size != columns.size or scales.size != zeros.size or scales.size % count:
        raise NotProvenEqual(f"ONNX Runtime's {K_QUANT_ON_CPU} gives arrays of other shapes")
    parts = [levels.astype(np.uint8), zeros.reshape(count, -1)]
    levels, zeros = (
        part if options.bits == 8 else part[:, ::2] | part[:, 1::2] << 4 for part in parts
    )
    return levels, scales.reshape(count, -1).astype(columns.dtype), zeros
