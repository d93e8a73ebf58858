"""Which rows and tokens moments are taken of, and which tensors are rounded by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from olivebuild.core.errors import InputError
from olivebuild.ml.onnx.calibration.moments import TOKENS, batches_of, chosen, first_seen
from olivebuild.ml.onnx.calibration.rounding import (
    RoundingError,
    Unseen,
    columns_of,
    figures,
    is_rounded,
    table,
    told,
)
from olivebuild.ml.onnx.skeleton import (
    Add,
    Cast,
    Concat,
    NotFinite,
    Quantised,
    Source,
    TensorRecipe,
    View,
)

N, K = 6, 4


def whole(name: str, rows: int = N) -> View:
    return View(Source(name, "BF16", (rows, K)), 0, (rows, K), (K, 1))


def test_all_rows_are_taken_until_there_are_too_many() -> None:
    assert chosen(np.full(10, 7)).tolist() == list(range(10))
    taken = chosen(np.full(3000, TOKENS // 1000))
    assert taken.tolist() == list(range(0, 3000, 3))


def test_a_token_counts_once_for_rows_that_begin_alike() -> None:
    rows = [np.array(ids) for ids in ([1, 2, 3], [1, 2, 4, 3], [2, 3], [1, 2, 3])]
    masks = [mask.astype(int).tolist() for mask in first_seen(rows)]
    assert masks == [[1, 1, 1], [0, 0, 1, 1], [1, 1], [0, 0, 0]]


def test_rows_are_computed_with_others_of_like_length_and_each_once() -> None:
    rows = [np.zeros(length) for length in (5, 4000, 3, 1000, 2000, 4097)]
    batches = batches_of(rows)
    assert batches == [[5], [1], [4, 3], [0, 2]]


@pytest.mark.parametrize(
    ("view", "names"),
    [
        (whole("q"), {"q"}),
        (View(Source("qkv", "BF16", (N, K)), 2 * K, (2, K), (K, 1)), {"qkv"}),
        (View(Source("w", "BF16", (N, K)), 0, (N // 2, K), (2 * K, 1)), {"w"}),
        (
            View(Concat((whole("q"), whole("k", 2)), 0, "BF16", (8, K)), 0, (8, K), (K, 1)),
            {"q", "k"},
        ),
        (View(Cast(whole("q"), "F32", (N, K)), 0, (N, K), (K, 1)), {"q"}),
        (View(Add(whole("q"), 1.0, "F32", (N, K)), 0, (N, K), (K, 1)), set()),
        (View(Source("q", "BF16", (N, K)), 0, (K, N), (1, K)), set()),
        (View(Source("q", "BF16", (N, K)), 1, (N - 1, K), (K, 1)), set()),
        (
            View(Concat((whole("q"), whole("k")), 1, "BF16", (N, 8)), 0, (N, 8), (8, 1)),
            set(),
        ),
    ],
)
def test_columns_are_those_of_weights_or_it_is_not_known(view: View, names: set[str]) -> None:
    assert columns_of(view) == names


@pytest.mark.parametrize(("bits", "rounded"), [(4, True), (8, False)])
def test_4_bits_are_rounded_by_moments(bits: Any, rounded: bool) -> None:
    recipe = TensorRecipe(whole("q").transposed, "F32", Quantised(bits, 32, True, "F32"))
    assert is_rounded(recipe) == rounded
    assert not is_rounded(TensorRecipe(whole("q"), "F32"))


def test_errors_are_told_as_shares_of_what_matrices_give() -> None:
    errors = {"b": RoundingError(1.0, 2.0, 10.0, 8, 1), "a": RoundingError(0.0, 0.0, 0.0, 8, 0)}
    assert figures(errors) == {
        "rounding_error": 0.1,
        "rounding_error_plain": 0.2,
        "plain_rows": 1 / 16,
    }
    assert table(errors) == {"a": [0.0, 0.0, 0], "b": [0.1, 0.2, 1]}


@pytest.mark.parametrize(
    ("fault", "field", "fact"),
    [
        (Unseen("lm_head.weight"), "algorithm", "no inputs of lm_head.weight are known"),
        (NotFinite("it holds NaN", "train anew"), "precision", "it holds NaN"),
    ],
)
def test_a_tensor_that_can_not_be_rounded_is_told_with_its_place(
    fault: Exception, field: str, fact: str
) -> None:
    job: Any = type("Job", (), {"where": staticmethod(lambda name: f"olivebuild.yaml:{name}")})
    with pytest.raises(InputError, match=fact) as found, told(job):
        raise fault
    assert field in str(found.value.where)
