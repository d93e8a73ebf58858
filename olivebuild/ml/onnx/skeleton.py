"""Recipes for an ONNX model's tensors, as data, and their evaluation.

A recipe is a view of weights, concatenations, sums and casts. ml/onnx/builder_trace.py, which
watches the model builder, writes recipes, and ml/onnx/assemble.py reads them. This module needs
numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter

from olivebuild.core import hashing
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.kernels.k_quant import KQuantiser
from olivebuild.ml.weights.view import Weight

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
VERSION = 2
"""Raise it when an evaluation or a quantiser would give other bytes."""
Dtype = Literal["BF16", "F16", "F32"]
Algorithm = Literal["default", "k_quant"]
Bits = Literal[4, 8]
Block = Literal[16, 32, 64, 128, 256]
PIECE = 1 << 24
"""Bytes of a weight that are checked together."""
DAMAGED = "the weights are damaged, or their training diverged; nothing was converted"
Rows = Callable[[int, int], np.ndarray]
"""(first row, count) -> rows as stored numbers."""


@dataclass(frozen=True)
class Source:
    """A weight of the model, by its name; row-major."""

    weight: str
    dtype: Dtype
    shape: tuple[int, ...]
    op: Literal["weight"] = "weight"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True)
class Concat:
    """Arrays one after the other along dimension `dim`."""

    parts: tuple[View, ...]
    dim: Annotated[int, Field(ge=0)]
    dtype: Dtype
    shape: tuple[int, ...]
    op: Literal["concat"] = "concat"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True)
class Add:
    """A number added to each element, in float32, and rounded to `dtype`."""

    part: View
    number: float
    dtype: Dtype
    shape: tuple[int, ...]
    op: Literal["add"] = "add"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True)
class Cast:
    """A copy, in row-major order, in another number format or the same."""

    part: View
    dtype: Dtype
    shape: tuple[int, ...]
    op: Literal["cast"] = "cast"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True)
class View:
    """A strided view of a node's array; offset and strides in elements."""

    of: Annotated[Source | Concat | Add | Cast, Field(discriminator="op")]
    offset: Annotated[int, Field(ge=0)]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def transposed(self) -> View:
        """The view with its dimensions in reverse order."""
        return View(self.of, self.offset, self.shape[::-1], self.strides[::-1])


@dataclass(frozen=True)
class Quantised:
    """The parameters of blockwise.Quantiser."""

    bits: Bits
    block: Block
    symmetric: bool
    scales: Dtype
    algorithm: Algorithm = "default"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def kernel(self) -> blockwise.Quantiser:
        """The quantiser in numpy or C."""
        kind = blockwise.Quantiser if self.algorithm == "default" else KQuantiser
        return kind(self.bits, self.block, self.symmetric, self.scales)


@dataclass(frozen=True)
class TensorRecipe:
    """A tensor of the ONNX model, cast to `dtype`.

    If `quantised`, blocks run along the rows of the transposed view [k, n].
    """

    view: View
    dtype: Dtype
    quantised: Quantised | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def key(self, weights: Mapping[str, Weight]) -> str:
        """Return the digest of all that decides the bytes: the recipe, with weights' digests."""
        dumped = _RECIPES.dump_python(self, mode="json")
        return hashing.of_json(["onnx tensor", VERSION, _named(dumped, weights)])

    def form(self) -> str:
        """Return what the recipe does, as text in which weights are numbers in order."""
        numbers: dict[str, int] = {}
        return repr(_numbered(_RECIPES.dump_python(self, mode="json"), numbers))

    def sources(self) -> set[str]:
        """Return the names of the weights that the tensor comes from."""
        return _sources(self.view)


_RECIPES = TypeAdapter(TensorRecipe)


@dataclass(frozen=True)
class Slot:
    """A range of `size` bytes of the data file.

    It holds part `part` of a tensor; with tensor -1, constants from offset `part` of their file.
    """

    name: str
    offset: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=0)]
    tensor: Annotated[int, Field(ge=-1)]
    part: Annotated[int, Field(ge=0)]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True)
class Skeleton:
    """All of an ONNX model but its weights' values.

    `fallback_reason` instead says why there is none for a model; stored as `because`.
    """

    data: str = ""
    size: int = 0
    tensors: tuple[TensorRecipe, ...] = ()
    slots: tuple[Slot, ...] = ()
    fallback_reason: Annotated[str, Field(alias="because")] = ""
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def to_json(self) -> bytes:
        """Return the skeleton as JSON."""
        return _SKELETONS.dump_json(self, by_alias=True)

    @staticmethod
    def from_json(text: bytes) -> Skeleton:
        """Read a skeleton. Raises ValueError."""
        return _SKELETONS.validate_json(text)


_SKELETONS = TypeAdapter(Skeleton)


class NotFinite(Exception):
    """A tensor that would hold infinities or NaN."""

    def __init__(self, fact: str, hint: str) -> None:
        super().__init__(fact)
        self.hint = hint


def not_finite(recipe: TensorRecipe, weights: Mapping[str, Weight]) -> NotFinite:
    """Return the error for a tensor: its weight is not finite, or does not fit the dtype."""
    for weight in (weights[name] for name in sorted(recipe.sources())):
        for start in range(0, weight.size, PIECE):
            if not blockwise.is_finite(
                weight.read(start, min(PIECE, weight.size - start)), weight.dtype
            ):
                return NotFinite(f"{weight.name} holds infinities or NaN", DAMAGED)
    format_ = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[recipe.dtype]
    hint = "precision: bf16 or fp32 has the range of bfloat16; float16 ends at 65504"
    return NotFinite(
        f"{' or '.join(sorted(recipe.sources()))} does not fit {format_}: it holds numbers beyond "
        "its range",
        hint,
    )


def _named(value: object, weights: Mapping[str, Weight]) -> object:
    """Return a dumped recipe with digests instead of the weights' names."""
    if isinstance(value, dict):
        if value.get("op") == "weight":
            return [weights[value["weight"]].digest, value["dtype"], value["shape"]]
        return {name: _named(v, weights) for name, v in value.items()}
    return [_named(v, weights) for v in value] if isinstance(value, list) else value


def _numbered(value: object, numbers: dict[str, int]) -> object:
    """Return a dumped recipe with a number for each weight's name."""
    if isinstance(value, dict):
        if value.get("op") == "weight":
            number = numbers.setdefault(value["weight"], len(numbers))
            return [number, value["dtype"], value["shape"]]
        return {name: _numbered(v, numbers) for name, v in value.items()}
    return [_numbered(v, numbers) for v in value] if isinstance(value, list) else value


def _sources(view: View) -> set[str]:
    node = view.of
    if isinstance(node, Source):
        return {node.weight}
    parts = node.parts if isinstance(node, Concat) else (node.part,)
    return set().union(*(_sources(p) for p in parts))


def evaluate(view: View, weights: Mapping[str, Weight]) -> np.ndarray:
    """Return the whole array, as stored numbers of `view.of.dtype`."""
    flat = _node(view.of, weights).reshape(-1)
    step = flat.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[view.offset :], view.shape, tuple(s * step for s in view.strides), writeable=False
    )


def _node(node: Source | Concat | Add | Cast, weights: Mapping[str, Weight]) -> np.ndarray:
    if isinstance(node, Source):
        return np.frombuffer(_weight(node, weights).read(), blockwise.STORED[node.dtype]).reshape(
            node.shape
        )
    if isinstance(node, Concat):
        return np.concatenate([evaluate(p, weights) for p in node.parts], node.dim)
    part = np.ascontiguousarray(evaluate(node.part, weights))
    wide = blockwise.widen(part, node.part.of.dtype)
    if isinstance(node, Add):
        wide = wide + np.float32(node.number)
    return blockwise.narrow(wide, node.dtype).reshape(node.shape)


def _weight(node: Source, weights: Mapping[str, Weight]) -> Weight:
    weight = weights[node.weight]
    if (weight.dtype, weight.shape) != (node.dtype, node.shape):
        raise ValueError(
            f"{node.weight} is {weight.dtype} {list(weight.shape)}, the skeleton expects "
            f"{node.dtype} {list(node.shape)}"
        )
    return weight


def stacked_rows(view: View, *, cast: bool = False) -> list[tuple[str, int, int]] | None:
    """Return the (weight, first row, end) that a view [n, k] holds one after the other.

    None where it holds anything else; `cast` numbers count as the weight's own.
    """
    node, shape = view.of, view.shape
    if len(shape) != 2 or view.strides != (shape[1], 1):
        return None
    if isinstance(node, Source) and node.shape[1:] == shape[1:]:
        start = view.offset // shape[1]
        whole = view.offset == start * shape[1]
        return [(node.weight, start, start + shape[0])] if whole else None
    if cast and isinstance(node, Cast) and node.shape == shape and not view.offset:
        return stacked_rows(node.part, cast=True)
    if isinstance(node, Concat) and node.dim == 0 and node.shape == shape and not view.offset:
        parts = [stacked_rows(part, cast=cast) for part in node.parts]
        return None if None in parts else [rows for part in parts for rows in part or ()]
    return None


def rows_of(view: View, weights: Mapping[str, Weight]) -> Rows:
    """Return a function that gives the view a few rows at a time.

    It reads piece by piece where rows lie one after the other in the file.
    """
    node = view.of
    dense = view.strides == _row_major(view.shape)
    if dense and isinstance(node, Source):
        return _rows_of_file(view, _weight(node, weights), blockwise.STORED[node.dtype])
    if dense and isinstance(node, Concat) and node.dim == 0 and view.offset == 0:
        return _rows_of_parts([(rows_of(p, weights), p.shape[0]) for p in node.parts])
    whole = evaluate(view, weights)
    return lambda start, count: whole[start : start + count]


def _rows_of_file(view: View, weight: Weight, stored: np.dtype[Any]) -> Rows:
    width = int(np.prod(view.shape[1:], dtype=np.int64))

    def rows(start: int, count: int) -> np.ndarray:
        raw = weight.read(
            (view.offset + start * width) * stored.itemsize, count * width * stored.itemsize
        )
        return np.frombuffer(raw, stored).reshape(count, *view.shape[1:])

    return rows


def _rows_of_parts(parts: list[tuple[Rows, int]]) -> Rows:
    """Return the rows of parts, each with its count of rows, one after the other."""

    def rows(start: int, count: int) -> np.ndarray:
        pieces, first = [], 0
        for part, length in parts:
            a, b = max(start, first), min(start + count, first + length)
            if a < b:
                pieces.append(part(a - first, b - a))
            first += length
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    return rows


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


def parts_of(
    recipe: TensorRecipe,
    weights: Mapping[str, Weight],
    write: Callable[[int, np.ndarray], None],
    kernel: Callable[[Quantised], blockwise.Quantiser] = lambda quantised: quantised.kernel,
) -> None:
    """Compute a tensor a few rows at a time; `write(part, array)` takes each part's in order.

    A quantised tensor has three parts: packed values, scales, zero points (empty when symmetric).
    Others have one. Raises NotFinite.
    """
    view = recipe.view.transposed if recipe.quantised else recipe.view
    if not view.shape:
        view = View(view.of, view.offset, (1,), (1,))
    rows = rows_of(view, weights)
    quantise = kernel(recipe.quantised) if recipe.quantised else None
    # Quantisers work in float32 on whatever is stored, and nothing is lost on the way there.
    cast = recipe.dtype != view.of.dtype and not (quantise and recipe.dtype == "F32")
    dtype = recipe.dtype if cast else view.of.dtype
    for start in range(0, view.shape[0], blockwise.ROWS):
        values = rows(start, min(blockwise.ROWS, view.shape[0] - start))
        if cast:
            with np.errstate(over="ignore"):
                values = blockwise.narrow(blockwise.widen(values, view.of.dtype), recipe.dtype)
        parts: tuple[np.ndarray, ...] = quantise(values, dtype) if quantise else (values,)
        # What is not finite in a block is not finite in its scale.
        checked = (parts[1], recipe.quantised.scales) if recipe.quantised else (values, dtype)
        if not blockwise.is_finite(*checked):
            raise not_finite(recipe, weights)
        for number, part in enumerate(parts):
            write(number, np.ascontiguousarray(part))
