"""Arithmetic on weights: the bits are torch's and ONNX Runtime's, also for numbers that no model
should hold.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from olivebuild.ml.kernels import blockwise
from olivebuild.ml.kernels.blockwise import (
    Quantiser,
    add_delta,
    narrow,
    product,
    product_native,
    product_reproducible,
    residual,
    widen,
)

SHORT = ("BF16", "F16")
EVERY_SHORT = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
ODD = [(1, 7), (7, 1), (2, 3), (17, 33), (63, 65), (257, 129), (300, 515)]


@pytest.fixture(scope="module", params=["compiled", "numpy"], autouse=True)
def arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything twice: by _native.c, and without it."""
    if request.param == "compiled":
        if blockwise.native is None:
            pytest.skip("_native.c was not compiled")
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "native", None)
        yield


def test_our_own_arithmetic_is_compiled_where_there_is_a_compiler(arithmetic: None) -> None:
    # Not of the fixture's word: it may have set it aside.
    assert shutil.which("gcc") is None or importlib.util.find_spec("olivebuild._native") is not None


def torch_type(dtype: str) -> Any:
    import torch

    return {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[dtype]


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view({2: np.uint16, 4: np.uint32}[values.itemsize])


def torch_narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """Bits of torch's rounding."""
    import torch

    return np.asarray(torch.from_numpy(values).to(torch_type(dtype)).view(torch.uint16).numpy())


def torch_widen(stored: np.ndarray, dtype: str) -> np.ndarray:
    import torch

    return np.asarray(
        torch.from_numpy(stored.view(np.int16).copy()).view(torch_type(dtype)).float().numpy()
    )


def assert_rounds_as_torch(values: np.ndarray, dtype: str) -> None:
    """Bit-equal, but for NaN, whose payload torch itself rounds in more than one way."""
    # The default of numpy warns of numbers that become infinite; torch is silent.
    with np.errstate(over="ignore", invalid="ignore"):
        ours = bits(narrow(values.copy(), dtype))
    nan = np.isnan(values)
    assert np.array_equal(ours[~nan], torch_narrow(values, dtype)[~nan])
    assert np.isnan(torch_widen(ours[nan], dtype)).all()


def random_weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.05)


# Number formats


@pytest.mark.parametrize("dtype", SHORT)
def test_every_short_number_is_widened_as_torch_does(dtype: str) -> None:
    ours, theirs = (
        widen(EVERY_SHORT.view(blockwise.STORED[dtype]), dtype),
        torch_widen(EVERY_SHORT, dtype),
    )
    number = ~np.isnan(theirs)
    assert np.array_equal(bits(ours)[number], bits(theirs)[number])
    assert np.isnan(ours[~number]).all()


@pytest.mark.parametrize("dtype", SHORT)
def test_every_short_number_comes_back_from_float32(dtype: str) -> None:
    wide = widen(EVERY_SHORT.view(blockwise.STORED[dtype]), dtype)
    number = ~np.isnan(wide)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(bits(narrow(wide, dtype))[number], EVERY_SHORT[number])


@pytest.mark.parametrize("dtype", SHORT)
def test_every_tie_and_its_neighbours_round_as_torch_does(dtype: str) -> None:
    wide = torch_widen(EVERY_SHORT, dtype)
    wide = wide[np.isfinite(wide) & (wide >= 0)]
    middle = (wide[:-1].astype(np.float64) + wide[1:]) / 2
    ties = middle.astype(np.float32)
    assert np.array_equal(ties.astype(np.float64), middle)
    for near in (
        ties,
        np.nextafter(ties, np.float32(np.inf)),
        np.nextafter(ties, np.float32(-np.inf)),
    ):
        assert_rounds_as_torch(near, dtype)
        assert_rounds_as_torch(-near, dtype)


@pytest.mark.parametrize("dtype", SHORT)
@settings(max_examples=150)
@given(pattern=arrays(np.uint32, st.integers(1, 40), elements=st.integers(0, (1 << 32) - 1)))
def test_any_bits_round_as_torch_does(dtype: str, pattern: np.ndarray) -> None:
    assert_rounds_as_torch(pattern.view(np.float32), dtype)


@pytest.mark.parametrize("dtype", SHORT)
def test_nan_infinity_and_the_largest_numbers_round_as_torch_does(dtype: str) -> None:
    patterns = [
        0x7F800000,
        0xFF800000,
        0x7F800001,
        0x7FFFFFFF,
        0xFFFFFFFF,
        0x7FC00000,
        0x7F7FFFFF,
        0xFF7FFFFF,
        1,
        0x80000001,
        0x80000000,
        0x007FFFFF,
    ]
    assert_rounds_as_torch(np.array(patterns, np.uint32).view(np.float32), dtype)
    assert_rounds_as_torch(
        np.array([65504, 65519.99, 65520, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25], np.float32), dtype
    )


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("shape", [(0, 3), (5,), (2, 3, 4)])
def test_the_shape_is_kept(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.ones(shape, np.float32)
    stored = narrow(values, dtype)
    assert (stored.shape, stored.dtype) == (shape, blockwise.STORED[dtype])
    assert np.array_equal(widen(stored, dtype), values)


def test_what_is_not_contiguous_is_narrowed_too() -> None:
    values = random_weights(0, 6, 8).T[::2]
    assert np.array_equal(
        narrow(values, "BF16"), torch_narrow(np.ascontiguousarray(values), "BF16")
    )


# Products


@pytest.mark.parametrize("rank", [*range(1, 18), 24, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128])
def test_a_product_has_the_bits_of_torch(rank: int) -> None:
    import torch

    for rows, columns in ODD:
        b, a = random_weights(rank, rows, rank), random_weights(rank + 1, rank, columns)
        assert np.array_equal(
            bits(product(b, a)), bits((torch.from_numpy(b) @ torch.from_numpy(a)).numpy())
        ), (rows, columns)


@pytest.mark.parametrize("rank", [1, 3, 8, 16, 64, 128])
@pytest.mark.parametrize("rows", [255, 256, 264, 384, 511])
def test_a_product_a_few_rows_at_a_time_has_the_bits_of_the_whole(rank: int, rows: int) -> None:
    import torch

    b, a = random_weights(rank, rows, rank), random_weights(rank + 1, rank, 192)
    parts = [
        product(b[start : start + blockwise.ROWS], a) for start in range(0, rows, blockwise.ROWS)
    ]
    assert np.array_equal(
        bits(np.concatenate(parts)), bits((torch.from_numpy(b) @ torch.from_numpy(a)).numpy())
    )


def test_a_product_without_torchs_library_asks_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    b, a = random_weights(0, 33, 8), random_weights(1, 8, 65)
    before = product(b, a)
    monkeypatch.setattr(blockwise, "_torch_sgemm", lambda: None)
    assert np.array_equal(bits(product(b, a)), bits(before))


@pytest.mark.parametrize("rank", [1, 2, 7, 16, 64, 128])
def test_a_reproducible_product_does_not_depend_on_its_pieces(rank: int) -> None:
    b, a = random_weights(rank, 97, rank), random_weights(rank + 1, rank, 61)
    whole = product_reproducible(b, a)
    for step in (1, 2, 13, 64):
        rows = np.concatenate(
            [product_reproducible(b[i : i + step], a) for i in range(0, 97, step)]
        )
        columns = np.concatenate(
            [
                product_reproducible(b, np.ascontiguousarray(a[:, i : i + step]))
                for i in range(0, 61, step)
            ],
            1,
        )
        assert np.array_equal(bits(rows), bits(whole))
        assert np.array_equal(bits(columns), bits(whole))


@pytest.mark.parametrize("rank", [1, 2, 7, 16, 64, 128])
def test_a_reproducible_product_is_near_the_other(rank: int) -> None:
    b, a = random_weights(rank, 97, rank), random_weights(rank + 1, rank, 61)
    exact = b.astype(np.float64) @ a.astype(np.float64)
    assert np.abs(product_reproducible(b, a) - product(b, a)).max() < 1e-6
    # Rounded once: no float32 is nearer.
    assert (
        np.abs(product_reproducible(b, a) - exact) <= np.spacing(np.abs(exact).astype(np.float32))
    ).all()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("scale", [2.0, 1 / 3, 16 / 64**0.5, 0.1])
def test_a_product_is_added_as_peft_does(dtype: str, scale: float) -> None:
    import torch

    b, a = random_weights(0, 65, 12), random_weights(1, 12, 130)
    weight = torch.from_numpy(random_weights(2, 65, 130)).to(torch_type(dtype))
    stored = weight.view(torch.uint8).numpy().view(blockwise.STORED[dtype]).reshape(65, 130).copy()
    ours = add_delta(stored, dtype, product(b, a), scale)
    # peft: `base_layer.weight.data += delta_weight`, the delta in float32.
    weight += (torch.from_numpy(b) @ torch.from_numpy(a)) * scale
    assert ours.tobytes() == weight.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("columns", [1, 16, 37, 130])
def test_a_residual_is_what_changed_seen_along_a_probe(dtype: str, columns: int) -> None:
    before, after = (narrow(random_weights(seed, 9, columns), dtype) for seed in (0, 1))
    probe = random_weights(2, columns)
    moved, lengths = residual(before, after, dtype, probe)
    wide = [widen(x, dtype).astype(np.float64) for x in (before, after)]
    assert np.allclose(moved, (wide[1] - wide[0]) @ probe, rtol=1e-4, atol=1e-6)
    assert np.allclose(lengths, (wide[1] ** 2).sum(1), rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 64, 128])
def test_our_product_is_a_chain_of_fused_additions(rank: int) -> None:
    for rows, columns in ODD:
        b, a = random_weights(rank, rows, rank), random_weights(rank + 1, rank, columns)
        made = product_native(b, a)
        if made is None:
            pytest.skip("_native.c was not compiled, or the processor has no fused multiply-add")
        # float64 holds the product of two float32 exactly, and the sum rounded to float32 is fused
        # but for rare double roundings.
        chain = np.zeros((rows, columns), np.float32)
        for i in range(rank):
            chain = (b[:, i : i + 1].astype(np.float64) * a[i].astype(np.float64) + chain).astype(
                np.float32
            )
        assert (bits(made) != bits(chain)).mean() < 1e-3


def test_sizes_that_do_not_go_together_are_errors() -> None:
    if blockwise.native is None:
        pytest.skip("_native.c was not compiled")
    one = np.zeros((2, 16), np.float32)
    with pytest.raises(ValueError, match="bytes instead of"):
        blockwise.native.product(one, one, one, 2, 16, 16)
    with pytest.raises(ValueError, match="bytes instead of"):
        blockwise.native.add_delta(one, 2, one[:1].copy(), 1.0, one)
    with pytest.raises(ValueError, match="not known"):
        blockwise.native.quantise(one, 2, 8, 4, True, 2, one, one, one)
    with pytest.raises(ValueError, match="number format"):
        blockwise.native.quantise(one, 7, 16, 4, True, 2, one, one, one)


def test_work_in_threads_keeps_its_order_and_its_errors() -> None:
    assert blockwise.in_threads(lambda n: n * n, list(range(50))) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        blockwise.in_threads(lambda n: 1 // n, [1, 0])


# Quantisation


def assert_quantised_as_onnxruntime(weight: np.ndarray, options: Quantiser) -> None:
    """`weight` [n, k] in the number format of the scales."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=options.block, is_symmetric=options.symmetric, bits=options.bits
    )
    theirs = DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(weight.T))
    ours = options(weight.astype(np.float32))
    for part, mine, other in zip(("packed", "scales", "zeros"), ours, theirs, strict=True):
        if part == "zeros" and options.symmetric:
            assert not mine.size
            continue
        assert mine.size == other.size
        assert mine.tobytes() == np.ascontiguousarray(other).tobytes(), (part, options)


def odd_blocks(block: int, scales: str) -> np.ndarray:
    """[n, 4 blocks]: each row's first block is of a sort of its own."""
    weight = random_weights(3, 14, 4 * block)
    weight[0] = 0
    weight[1, :block] = 0
    weight[2, 1] = 6e4
    weight[3, block - 1] = -6e4
    weight[4, :block] = np.where(np.arange(block) % 2, 0.5, -0.5)
    weight[5, :block] = np.where(np.arange(block) % 2, -0.5, 0.5)
    weight[6, :block] = np.abs(weight[6, :block])
    weight[7, :block] = -np.abs(weight[7, :block])
    weight[8, :block] = 0.25
    weight[9, :block] = -0.25
    # Halves of levels: each is a tie.
    weight[10, :block] = np.linspace(-8, 7.5, 32)[np.arange(block) % 32] / 8
    weight[11, :block] = np.linspace(-128, 127.5, 512)[np.arange(block) * 7 % 512] / 128
    weight[12, :block] = -0.0
    weight[13, :block] = np.where(np.arange(block) % 3, 6e-8, -6e-8)
    return weight.astype(blockwise.STORED[scales])


CASES = [
    pytest.param(
        Quantiser(n, block, symmetric, scales),
        id=f"{n} bits, blocks of {block}, {'' if symmetric else 'a'}symmetric, {scales}",
    )
    for n in (4, 8)
    for block in (16, 32, 64, 128, 256)
    for symmetric in (True, False)
    for scales in ("F32", "F16")
]


@pytest.mark.parametrize("options", CASES)
def test_weights_are_quantised_as_onnxruntime_does(options: Quantiser) -> None:
    for blocks in (2, 6):
        weight = random_weights(blocks, 37, blocks * options.block).astype(
            blockwise.STORED[options.scales]
        )
        assert_quantised_as_onnxruntime(weight, options)


@pytest.mark.parametrize(("n", "symmetric"), [(4, True), (4, False), (8, True), (8, False)])
def test_an_odd_number_of_blocks_is_quantised_as_onnxruntime_does(n: int, symmetric: bool) -> None:
    for blocks in (1, 3, 5):
        assert_quantised_as_onnxruntime(
            random_weights(blocks, 37, blocks * 32), Quantiser(n, 32, symmetric, "F32")
        )


@pytest.mark.parametrize("options", CASES)
def test_odd_blocks_are_quantised_as_onnxruntime_does(options: Quantiser) -> None:
    assert_quantised_as_onnxruntime(odd_blocks(options.block, options.scales), options)


@pytest.mark.parametrize("scales", ["F32", "F16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", [4, 8])
def test_zeros_of_both_signs_are_quantised_as_onnxruntime_does(
    n: int, symmetric: bool, scales: str
) -> None:
    weight = np.zeros((4, 64), np.float32)
    weight[0, 0] = weight[1, 1] = weight[2, :32] = weight[3, 31] = weight[3, 32] = -0.0
    assert_quantised_as_onnxruntime(
        weight.astype(blockwise.STORED[scales]), Quantiser(n, 32, symmetric, scales)
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", [4, 8])
@settings(max_examples=60)
@given(weight=arrays(np.float16, (2, 32), elements=st.floats(-6e4, 6e4, width=16)))
def test_any_numbers_are_quantised_as_onnxruntime_does(
    n: int, symmetric: bool, weight: np.ndarray
) -> None:
    # Zeros of both signs are a matter of their own, above.
    weight += np.float16(0)
    assert_quantised_as_onnxruntime(weight, Quantiser(n, 16, symmetric, "F16"))
    assert_quantised_as_onnxruntime(weight.astype(np.float32), Quantiser(n, 16, symmetric, "F32"))


@pytest.mark.parametrize("scales", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", [4, 8])
def test_the_quantiser_in_torch_has_the_bits_of_the_one_in_numpy(
    n: int, symmetric: bool, scales: str
) -> None:
    from olivebuild.ml.kernels.blockwise_torch import TorchQuantiser

    for block in (16, 128):
        weight = odd_blocks(block, "F16" if scales == "F16" else "F32").astype(np.float32)
        ours, theirs = (
            Quantiser(n, block, symmetric, scales)(weight),
            TorchQuantiser(n, block, symmetric, scales, device="cpu")(weight),
        )
        assert [part.tobytes() for part in ours] == [part.tobytes() for part in theirs]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_stored_numbers_are_quantised_as_their_widened_ones(dtype: str, symmetric: bool) -> None:
    stored = narrow(random_weights(0, 20, 128), dtype)
    for scales in ("F32", dtype):
        short, wide = (
            Quantiser(4, 32, symmetric, scales)(stored, dtype),
            Quantiser(4, 32, symmetric, scales)(widen(stored, dtype)),
        )
        assert [x.tobytes() for x in short] == [x.tobytes() for x in wide]


def test_more_blocks_than_fit_at_once_are_quantised_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_weights(0, 30, 96)
    whole = Quantiser(4, 32, False, "F32")(weight)
    monkeypatch.setattr(blockwise, "BLOCKS", 7)
    pieces = Quantiser(4, 32, False, "F32")(weight)
    assert [p.tobytes() for p in pieces] == [w.tobytes() for w in whole]


def test_the_scales_in_bfloat16_are_rounded_at_the_end() -> None:
    weight = widen(narrow(random_weights(0, 20, 128), "BF16"), "BF16")
    packed, scales, zeros = Quantiser(4, 32, False, "BF16")(weight)
    wide_packed, wide_scales, wide_zeros = Quantiser(4, 32, False, "F32")(weight)
    assert packed.tobytes() == wide_packed.tobytes()
    assert zeros.tobytes() == wide_zeros.tobytes()
    assert np.array_equal(scales, narrow(wide_scales, "BF16"))


@pytest.mark.parametrize("scales", ["F32", "F16", "BF16"])
def test_the_weights_given_to_the_quantiser_stay_as_they_are(scales: str) -> None:
    weight = random_weights(0, 8, 64)
    before = weight.copy()
    Quantiser(8, 64, True, scales)(weight)
    assert np.array_equal(weight, before)
