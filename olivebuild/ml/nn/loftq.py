"""LoftQ: an adapter whose first weights make up for what 4-bit weights of the base lose.

Li et al. 2023, https://arxiv.org/abs/2310.08659, algorithm 1: weights are quantised, what is lost
is decomposed to the adapter's rank, and both are repeated on the weights less the decomposed part.
peft 0.21.2 (utils/loftq_utils.py) has the same for CUDA alone, and does not divide by LoRA's
scaling, so that its adapters begin at the base only where alpha equals r.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from olivebuild.ml.nn.qlora import BLOCK
from olivebuild.ml.weights.adapter_config import SUBTRACTED

if TYPE_CHECKING:
    from olivebuild.steps.adapter import Quantisation

Factors = tuple[torch.Tensor, torch.Tensor]
"""(left [n, r], right [r, k]) of a product [n, k]."""
NOTHING = 1e-13
"""A square of a singular value below this share of the largest one is a rounding error."""


@torch.no_grad()
def begin(
    model: Any,
    exact: Any,
    options: Quantisation,
    iterations: int,
    progress: Callable[[int, int], None],
) -> dict[str, torch.Tensor]:
    """Give LoRA of peft's `model`, whose base is in 4 bits, its first weights.

    `exact` is the base in full precision, on any device. Return what was subtracted from its
    weights before they were quantised, by NAME.left and NAME.right; nothing after one iteration.
    """
    from peft.tuners.lora.bnb import Linear4bit

    layers = [
        (name, m) for name, m in model.get_base_model().named_modules() if isinstance(m, Linear4bit)
    ]
    weights = dict(exact.named_modules())
    subtracted: dict[str, torch.Tensor] = {}
    for number, (name, layer) in enumerate(layers):
        progress(number, len(layers))
        before = _begin_layer(layer, weights[name].weight, options, iterations)
        if before:
            subtracted[f"{name}.left"], subtracted[f"{name}.right"] = before
    progress(len(layers), len(layers))
    return subtracted


def _begin_layer(
    layer: Any, weight: torch.Tensor, options: Quantisation, iterations: int
) -> Factors | None:
    """Quantise a layer's weight and begin its LoRA; return what was subtracted from the weight."""
    name = layer.active_adapters[0]
    base, rank = layer.get_base_layer().weight, layer.r[name]
    wanted = weight.to(device=base.device, dtype=torch.float32)
    subtracted = None
    factors = _decomposed(wanted - _values(base), rank)
    for _ in range(1, iterations):
        subtracted = factors
        _quantise(layer.get_base_layer(), wanted - factors[0] @ factors[1], options)
        factors = _decomposed(wanted - _values(base), rank)
    left, right = factors
    a, b, root = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name] ** 0.5
    # A rank beyond the weight's own leaves rows of A as they were drawn, and columns of B zero.
    a[: right.shape[0]] = right / root
    b.zero_()
    b[:, : left.shape[1]] = left / root
    return subtracted


def _values(weight: Any) -> torch.Tensor:
    """Return what a 4-bit weight stands for, [n, k] in float32."""
    from bitsandbytes.functional import dequantize_4bit

    values: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return values.float()


def _quantise(linear: Any, values: torch.Tensor, options: Quantisation) -> None:
    """Put other values into a 4-bit layer."""
    from bitsandbytes.functional import quantize_4bit

    weight = linear.weight
    data, state = quantize_4bit(
        values,
        blocksize=BLOCK,
        compress_statistics=options.double,
        quant_type=options.type,
    )
    state.dtype = weight.quant_state.dtype
    weight.data.copy_(data.view(weight.data.shape))
    weight.quant_state = linear.quant_state = state


def _decomposed(matrix: torch.Tensor, rank: int) -> Factors:
    """Return the factors of the best approximation of that rank, alike in size.

    The singular vectors of the shorter side are the eigenvectors of its Gram matrix: in float64
    that is as exact as a decomposition in float32, in a third of its time.
    """
    if matrix.shape[0] > matrix.shape[1]:
        left, right = _decomposed(matrix.T, rank)
        return right.T, left.T
    wide = matrix.double()
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    # The largest come last. What is no more than rounding of them is nothing.
    squares, vectors = squares[-rank:], vectors[:, -rank:]
    root = torch.where(squares > NOTHING * squares[-1], squares, 0.0).sqrt().sqrt()
    right = (vectors.T @ wide) / torch.where(root > 0, root, torch.inf)[:, None]
    return (vectors * root).float(), right.float()


def save(subtracted: dict[str, torch.Tensor], folder: Path) -> None:
    """Write what was subtracted from weights before they were quantised, if anything was."""
    from safetensors.torch import save_file

    if subtracted:
        tensors = {name: t.to("cpu", torch.float32).contiguous() for name, t in subtracted.items()}
        save_file(tensors, folder / SUBTRACTED)
