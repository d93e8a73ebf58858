"""K-quant of weights gives ONNX Runtime's bits, compiled and by numpy."""

from __future__ import annotations

import numpy as np
import pytest

from olivebuild.ml.kernels import blockwise
from olivebuild.ml.kernels.blockwise import narrow, widen
from olivebuild.ml.kernels.k_quant import KQuantiser

KINDS = [
    "usual",
    "flat blocks",
    "of one sign",
    "tiny",
    "subnormal",
    "few values",
    "long tails",
    "no number",
    "infinite",
    "huge",
]


def weights(kind: str, block: int) -> np.ndarray:
    random = np.random.default_rng(7)
    weight = random.standard_normal((19, block * 4)).astype(np.float32) * np.float32(0.05)
    if kind == "flat blocks":
        weight[0, :block], weight[1, :block], weight[2, :block], weight[3, 1:block] = (
            0,
            0.5,
            -0.5,
            0,
        )
    elif kind == "of one sign":
        weight = np.abs(weight)
    elif kind == "tiny":
        weight *= np.float32(1e-30)
    elif kind == "subnormal":
        weight *= np.float32(1e-39)
    elif kind == "few values":
        weight = np.round(weight * 20) / np.float32(20)
    elif kind == "long tails":
        weight = random.standard_cauchy(weight.shape).astype(np.float32)
    elif kind in ("no number", "infinite", "huge"):
        # In the middle of a block, so that neither its least nor its greatest number tells.
        weight[3, block // 2] = {"no number": np.nan, "infinite": -np.inf, "huge": 1e20}[kind]
    return weight


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("count", [4, 8])
def test_k_quant_is_onnxruntimes(
    kind: str, block: int, count: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu

    if not compiled:
        monkeypatch.setattr(blockwise, "native", None)
    elif blockwise.native is None:
        pytest.skip("_native.c was not compiled")
    for dtype in ("F32", "BF16", "F16"):
        stored = narrow(weights(kind, block), dtype)
        levels, scales, zeros = quant_tensor_k_quant_cpu(widen(stored, dtype), count, block)
        packed = levels.astype(np.uint8)
        zeros = zeros.reshape(len(stored), -1)
        if count == 4:
            packed, zeros = (
                packed[:, ::2] | packed[:, 1::2] << 4,
                zeros[:, ::2] | zeros[:, 1::2] << 4,
            )
        ours = KQuantiser(count, block, False, "F32")(stored, dtype)
        assert np.array_equal(ours[0], packed)
        assert np.array_equal(
            ours[1].view(np.uint32),
            scales.astype(np.float32).reshape(len(stored), -1).view(np.uint32),
        )
        assert np.array_equal(ours[2], zeros)
