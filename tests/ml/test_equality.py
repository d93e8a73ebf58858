"""Proof of skeletons: slots that fill the data file, and quantisers that agree."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from olivebuild.ml.onnx.builder import K_QUANT, k_quant_on_processor  # noqa: E402
from olivebuild.ml.onnx.equality import _check_slots, _compare_kernels  # noqa: E402
from olivebuild.ml.onnx.skeleton import Quantised, Skeleton, Slot  # noqa: E402
from olivebuild.ml.weights.errors import NotProvenEqual  # noqa: E402


def skeleton(*places: tuple[int, int], size: int) -> Skeleton:
    slots = tuple(Slot(f"t{i}", *place, tensor=i, part=0) for i, place in enumerate(places))
    return Skeleton(size=size, slots=slots)


def test_slots_that_fill_the_file_are_right() -> None:
    _check_slots(skeleton((8, 8), (0, 8), size=16))


@pytest.mark.parametrize(
    ("places", "size", "fact"),
    [
        ([(0, 8), (4, 8)], 12, "t1 shares its bytes with another tensor"),
        ([(0, 8)], 16, "the data file holds more than its tensors"),
    ],
)
def test_slots_that_overlap_or_leave_bytes_prove_nothing(
    places: list[tuple[int, int]], size: int, fact: str
) -> None:
    with pytest.raises(NotProvenEqual, match=fact):
        _check_slots(skeleton(*places, size=size))


@pytest.mark.parametrize("algorithm", ["default", "k_quant"])
def test_our_quantiser_is_compared_with_onnx_runtimes(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    options = Quantised(4, 32, symmetric=False, scales="F32", algorithm=algorithm)  # type: ignore[arg-type]
    _compare_kernels("w", rows, options)

    def wrong(self: Quantised) -> object:
        return lambda weights: [part + 1 for part in right(weights)]

    right = options.kernel
    monkeypatch.setattr(Quantised, "kernel", property(wrong))
    with pytest.raises(NotProvenEqual, match="w is quantised in another way"):
        _compare_kernels("w", rows, options)


def test_k_quant_is_that_of_a_processor_where_onnx_runtime_takes_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where cupy is installed, ONNX Runtime adds on the GPU, in another order."""
    from onnxruntime.quantization.neural_compressor import weight_only

    def on_gpu(*args: object) -> object:
        levels, scales, zeros = weight_only.quant_tensor_k_quant_cpu(*args)
        return levels, scales * (1 + 1e-7), zeros

    monkeypatch.setattr(weight_only, K_QUANT, on_gpu)
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    _compare_kernels("w", rows, Quantised(4, 32, False, "F32", "k_quant"))
    # So does a model that is built whole.
    on_gpu.__module__ = weight_only.__name__
    with k_quant_on_processor():
        assert getattr(weight_only, K_QUANT) is weight_only.quant_tensor_k_quant_cpu
    assert getattr(weight_only, K_QUANT) is on_gpu
    # What records the builder stays.
    on_gpu.__module__ = "olivebuild"
    with k_quant_on_processor():
        assert getattr(weight_only, K_QUANT) is on_gpu
    monkeypatch.delattr(weight_only, "quant_tensor_k_quant_cpu")
    with pytest.raises(NotProvenEqual, match="has no quant_tensor_k_quant_cpu"):
        _compare_kernels("w", rows, Quantised(4, 32, False, "F32", "k_quant"))
