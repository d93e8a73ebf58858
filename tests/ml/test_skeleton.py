"""How a tensor comes from weights, as data: evaluated at once, and a few rows at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core.hashing import of_bytes
from olivebuild.ml.onnx.skeleton import (
    Add,
    Cast,
    Concat,
    NotFinite,
    Quantised,
    Skeleton,
    Slot,
    Source,
    TensorRecipe,
    View,
    evaluate,
    parts_of,
    rows_of,
)
from olivebuild.ml.weights.view import Weight

A = np.arange(24, dtype=np.float32).reshape(4, 6)
B = -np.arange(12, dtype=np.float32).reshape(2, 6)


def whole(node: Source | Concat | Add | Cast) -> View:
    strides = tuple(int(np.prod(node.shape[i + 1 :])) for i in range(len(node.shape)))
    return View(node, 0, node.shape, strides)


SOURCE_A, SOURCE_B = Source("a", "F32", (4, 6)), Source("b", "F32", (2, 6))
BOTH = Concat((whole(SOURCE_A), whole(SOURCE_B)), 0, "F32", (6, 6))
BESIDE = Concat((View(SOURCE_A, 0, (2, 6), (6, 1)), whole(SOURCE_B)), 1, "F32", (2, 12))
VIEWS = {
    "a weight": (whole(SOURCE_A), A),
    "some rows": (View(SOURCE_A, 6, (2, 6), (6, 1)), A[1:3]),
    "a column": (View(SOURCE_A, 1, (4, 1), (6, 1)), A[:, 1:2]),
    "transposed": (whole(SOURCE_A).transposed, A.T),
    "weights below each other": (whole(BOTH), np.concatenate([A, B])),
    "weights beside each other": (whole(BESIDE), np.concatenate([A[:2], B], 1)),
    "a sum": (whole(Add(whole(SOURCE_B), 1.0, "F32", (2, 6))), B + 1),
    "a cast": (whole(Cast(whole(SOURCE_B), "F16", (2, 6))), B.astype(np.float16)),
}


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Weight]:
    def stored(name: str, values: np.ndarray) -> Weight:
        file = tmp_path / name
        file.write_bytes(values.tobytes())
        place = ByteRange(file, 0, values.nbytes)
        digest = of_bytes(values.tobytes())
        return Weight(name, "F32", values.shape, digest, values.nbytes, place)

    return {"a": stored("a", A), "b": stored("b", B)}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_what_numpy_makes_of_it(weights: dict[str, Weight], name: str) -> None:
    view, expected = VIEWS[name]
    np.testing.assert_array_equal(evaluate(view, weights).view(expected.dtype), expected)
    rows = rows_of(view, weights)
    for start in range(len(expected)):
        for count in range(1, len(expected) - start + 1):
            piece = rows(start, count).view(expected.dtype)
            np.testing.assert_array_equal(piece, expected[start : start + count])


def test_a_tensor_is_written_in_parts(weights: dict[str, Weight]) -> None:
    written: dict[int, bytes] = {}

    def write(part: int, data: np.ndarray) -> None:
        written[part] = written.get(part, b"") + data.tobytes()

    parts_of(TensorRecipe(whole(BOTH), "F16"), weights, write)
    assert written == {0: np.concatenate([A, B]).astype(np.float16).tobytes()}
    written.clear()
    # Blocks run along the rows of the transposed view: a block of sixteen numbers here.
    block = View(SOURCE_A, 0, (16, 1), (1, 1))
    parts_of(TensorRecipe(block, "F32", Quantised(4, 16, False, "F32")), weights, write)
    assert [len(written[part]) for part in range(3)] == [8, 4, 1]
    assert np.frombuffer(written[1], np.float32) == 1.0


def test_numbers_beyond_the_range_are_told_by_the_names_of_weights(
    weights: dict[str, Weight],
) -> None:
    large = TensorRecipe(whole(Add(whole(SOURCE_B), 1e6, "F32", (2, 6))), "F16")
    with pytest.raises(NotFinite, match="b does not fit float16") as caught:
        parts_of(large, weights, lambda *_: None)
    assert "bfloat16" in caught.value.hint
    weights["b"].place.path.write_bytes(np.full(12, np.nan, np.float32).tobytes())
    with pytest.raises(NotFinite, match="b holds infinities or NaN"):
        parts_of(TensorRecipe(whole(SOURCE_B), "F32"), weights, lambda *_: None)


def test_a_weight_of_another_shape_is_an_error(weights: dict[str, Weight]) -> None:
    with pytest.raises(ValueError, match=r"b is F32 \[2, 6\], the skeleton expects F32 \[6, 2\]"):
        evaluate(whole(Source("b", "F32", (6, 2))), weights)


def test_the_key_of_a_tensor_has_digests_and_not_names(weights: dict[str, Weight]) -> None:
    recipe = TensorRecipe(whole(SOURCE_A), "F16")
    renamed = TensorRecipe(whole(Source("c", "F32", (4, 6))), "F16")
    assert recipe.key(weights) == renamed.key(weights | {"c": weights["a"]})
    assert recipe.key(weights) != TensorRecipe(whole(SOURCE_A), "BF16").key(weights)
    assert TensorRecipe(whole(BOTH), "F16").sources() == {"a", "b"}


def test_a_skeleton_is_read_as_it_was_written() -> None:
    skeleton = Skeleton(
        data="model.onnx.data",
        size=48,
        tensors=(TensorRecipe(whole(BOTH), "F16"), TensorRecipe(whole(SOURCE_A), "F32")),
        slots=(Slot("x", 0, 48, 0, 0),),
    )
    assert Skeleton.from_json(skeleton.to_json()) == skeleton
    for text in (b"", b"{", skeleton.to_json().replace(b'"F16"', b'"F8"')):
        with pytest.raises(ValueError, match=r"."):
            Skeleton.from_json(text)


def test_recipes_that_differ_in_the_names_of_weights_alone_are_of_one_form() -> None:
    other = Source("other", "F32", (4, 6))
    first, second = whole(SOURCE_A), whole(other)
    twice, both = (Concat(parts, 0, "F32", (8, 6)) for parts in ((first, first), (first, second)))
    recipes = [TensorRecipe(view, "F32") for view in (first, second, whole(twice), whole(both))]
    forms = [recipe.form() for recipe in recipes]
    assert forms[0] == forms[1]
    assert len(set(forms)) == 3
    assert TensorRecipe(first, "F16").form() != forms[0]
    assert TensorRecipe(first.transposed, "F32").form() != forms[0]
