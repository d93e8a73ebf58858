"""Tensors of an ONNX model rounded to 4 bits by GPTQ, in the layout of the rounding to nearest.

Levels, scales and zero points have the places and shapes that the model's skeleton gives them, so
the graph and its kernels are those of a model that is rounded to nearest. Of each row of a matrix
the better of the two roundings is taken, by the error that the moments tell.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from olivebuild.api.job import Job
from olivebuild.cache.blobs import Batch
from olivebuild.cache.memo import Blobs
from olivebuild.cache.store import Store
from olivebuild.core import hashing, numerics
from olivebuild.core.errors import InputError
from olivebuild.ml.kernels import blockwise, gptq
from olivebuild.ml.onnx.skeleton import (
    Add,
    Cast,
    Concat,
    NotFinite,
    Source,
    TensorRecipe,
    View,
    not_finite,
    rows_of,
)
from olivebuild.ml.weights.view import Weight, Weights
from olivebuild.steps.moments import INPUTS
from olivebuild.steps.scales import ERRORS

VERSION = 2
"""Raise it when equal weights and moments would give other bytes."""
ROWS = 1024
"""Rows of a matrix that are rounded at once."""


class Unseen(Exception):
    """A matrix whose inputs no row showed; the text names it."""


@contextlib.contextmanager
def told(job: Job) -> Iterator[None]:
    """Raise InputError, with its place in the recipe, for a tensor that can't be rounded."""
    try:
        yield
    except NotFinite as e:
        raise InputError(str(e), where=job.where("precision"), hint=e.hint) from None
    except Unseen as e:
        raise InputError(
            f"no inputs of {e} are known, so that it can't be calibrated",
            where=job.where("algorithm"),
            hint="leave `algorithm` and `calibration` out",
        ) from None


class RoundingError(NamedTuple):
    """tr((W - Q) H (W - Q)^T) of a matrix, by GPTQ and to the nearest, beside tr(W H W^T).

    `plain_rows` of its `rows` are rounded to the nearest, since that was better.
    """

    calibrated: float
    plain: float
    whole: float
    rows: int
    plain_rows: int


@dataclass(frozen=True)
class Calibration:
    """The moments by which matrices are rounded: the output of a `moments` node."""

    store: Store
    moments: Weights
    errors: dict[str, RoundingError] = field(default_factory=dict)
    """Of each matrix, by its weights' names, once all are computed."""
    _factors: _Factors = field(default_factory=lambda: _Factors())

    @cached_property
    def _names(self) -> dict[str, str]:
        return {str(k): str(v) for k, v in self.moments.file(INPUTS).items()}

    @cached_property
    def _numerics(self) -> list[tuple[str, str]]:
        """What decides the last bits of the products; each is one thread's."""
        return sorted(item for item in numerics.here().items() if item[0] != "threads")

    def moments_for(self, recipe: TensorRecipe) -> Weight | None:
        """Return the moments of a tensor's inputs; None for one that is not rounded by them.

        Raises Unseen.
        """
        if not is_rounded(recipe):
            return None
        assert recipe.quantised
        halves, by_name = {}, self.moments.by_name
        for name in columns_of(recipe.view.transposed) or {""}:
            if (half := by_name.get(self._names.get(name, ""))) is None:
                raise Unseen(name or min(recipe.sources()))
            halves[half.digest] = half
        k = recipe.view.shape[0]
        half = next(iter(halves.values()))
        if len(halves) > 1 or half.shape != (k * (k + 1) // 2,):
            raise Unseen(min(recipe.sources()))
        return half

    def key(self, recipe: TensorRecipe, weights: Mapping[str, Weight]) -> str:
        """Return the digest of all that decides a tensor's bytes. Raises Unseen."""
        half = self.moments_for(recipe)
        if half is None:
            return recipe.key(weights)
        about = [VERSION, recipe.key(weights), half.digest, self._numerics]
        return hashing.of_json(["calibrated tensor", *about])

    def compute(self, recipe: TensorRecipe, weights: Mapping[str, Weight], batch: Batch) -> Blobs:
        """Compute a tensor into blobs of `batch`: its parts, then its RoundingError as JSON.

        Raises NotFinite, Unseen.
        """
        half = self.moments_for(recipe)
        assert half
        assert recipe.quantised
        view, quantiser = recipe.view.transposed, recipe.quantised.kernel
        moments, factor = self._factors.of(half)
        rows = rows_of(view, weights)
        blobs, sizes = [batch.blob() for _ in range(4)], [0] * 4
        total = RoundingError(0.0, 0.0, 0.0, 0, 0)

        def write(part: int, data: np.ndarray | bytes) -> None:
            blobs[part].write(data)
            sizes[part] += len(data) if isinstance(data, bytes) else data.nbytes

        for start in range(0, view.shape[0], ROWS):
            stored = np.ascontiguousarray(rows(start, min(ROWS, view.shape[0] - start)))
            parts, error = _rounded(stored, recipe, quantiser, factor, moments, weights)
            for number, part in enumerate(parts):
                write(number, np.ascontiguousarray(part))
            total = RoundingError(*(a + b for a, b in zip(total, error, strict=True)))
        write(3, json.dumps(total._asdict()).encode())
        return tuple((blob.done(), size) for blob, size in zip(blobs, sizes, strict=True))

    def error_of(
        self,
        recipe: TensorRecipe,
        weights: Mapping[str, Weight],
        parts: tuple[bytes, bytes, bytes],
    ) -> float:
        """Return tr((W - Q) H (W - Q)^T) for a tensor's levels, scales and zero points.

        Raises Unseen.
        """
        half = self.moments_for(recipe)
        assert half
        assert recipe.quantised
        moments, (k, n) = dense(half).astype(np.float32), recipe.view.shape
        q, view = recipe.quantised, recipe.view.transposed
        rounded = gptq.of_stored(parts, q.scales, (n, k))
        rows, total = rows_of(view, weights), 0.0
        for start in range(0, n, ROWS):
            end = min(start + ROWS, n)
            values, _ = _values(np.ascontiguousarray(rows(start, end - start)), recipe)
            part = gptq.Rounded(
                rounded.levels[start:end], rounded.scales[start:end], rounded.zeros[start:end]
            )
            values = values - part.values(q.scales, q.block)
            total += float(gptq.errors_of(values, moments).sum())
        return total

    def takes(self, recipe: TensorRecipe) -> bool:
        """Return whether a tensor is rounded by moments."""
        return is_rounded(recipe)

    def computed(self, recipes: Mapping[str, TensorRecipe], parts: Mapping[str, Blobs]) -> None:
        """Read the errors of all rounded tensors into `errors`."""
        self.errors.update(errors_in(self.store, recipes, parts))


@dataclass(frozen=True)
class Tuned:
    """Tensors that were rounded, and their scales tuned: the output of a `scales` node."""

    store: Store
    scales: Weights
    errors: dict[str, RoundingError] = field(default_factory=dict)
    """Of each matrix, by its weights' names, once all are taken."""

    @cached_property
    def _errors(self) -> dict[str, dict[str, float]]:
        return dict(self.scales.file(ERRORS))

    @cached_property
    def _by_name(self) -> dict[str, Weight]:
        return self.scales.by_name

    def _parts(self, recipe: TensorRecipe, weights: Mapping[str, Weight]) -> list[Weight | None]:
        """Return levels, scales and zero points, None where there are none. Raises Unseen."""
        name = name_of(recipe, weights)
        parts = [self._by_name.get(part) for part in part_names(name)]
        if name not in self._errors or None in parts[:2]:
            raise Unseen(min(recipe.sources()))
        return parts

    def takes(self, recipe: TensorRecipe) -> bool:
        """Return whether a tensor is one that was rounded by rows."""
        return is_rounded(recipe)

    def key(self, recipe: TensorRecipe, weights: Mapping[str, Weight]) -> str:
        """Return the digest of all that decides a tensor's bytes. Raises Unseen."""
        if not is_rounded(recipe):
            return recipe.key(weights)
        digests = [part.digest if part else "" for part in self._parts(recipe, weights)]
        return hashing.of_json(["tuned tensor", digests, self._errors[name_of(recipe, weights)]])

    def compute(self, recipe: TensorRecipe, weights: Mapping[str, Weight], batch: Batch) -> Blobs:
        """Copy a tensor's parts into blobs of `batch`, then its RoundingError as JSON."""
        parts = [part.read() if part else b"" for part in self._parts(recipe, weights)]
        blobs = []
        for data in (*parts, json.dumps(self._errors[name_of(recipe, weights)]).encode()):
            blob = batch.blob()
            blob.write(data)
            blobs.append((blob.done(), len(data)))
        return tuple(blobs)

    def computed(self, recipes: Mapping[str, TensorRecipe], parts: Mapping[str, Blobs]) -> None:
        """Read the errors of all rounded tensors into `errors`."""
        self.errors.update(errors_in(self.store, recipes, parts))


def name_of(recipe: TensorRecipe, weights: Mapping[str, Weight]) -> str:
    """Return the name of a tensor in the output of a `scales` node.

    Layers of equal weights, as those that a model repeats, have inputs of their own, and so moments
    and levels.
    """
    return hashing.of_json([recipe.key(weights), sorted(recipe.sources())])


def part_names(name: str) -> tuple[str, str, str]:
    """Return the names of a tensor's parts in the output of a `scales` node."""
    return f"{name}.levels", f"{name}.scales", f"{name}.zeros"


def errors_in(
    store: Store, recipes: Mapping[str, TensorRecipe], parts: Mapping[str, Blobs]
) -> dict[str, RoundingError]:
    """Return the errors of all rounded tensors, by their weights' names."""
    return {
        " ".join(sorted(recipe.sources())): RoundingError(
            **json.loads(store.read(parts[key][3][0]))
        )
        for key, recipe in recipes.items()
        if is_rounded(recipe)
    }


def figures(errors: Mapping[str, RoundingError]) -> dict[str, float]:
    """Return the errors of all matrices as a step's metrics.

    `rounding_error` is the error as a share of what the matrices give, `rounding_error_plain` that
    of rounding to the nearest; `plain_rows` is the share of rows that are rounded so.
    """
    whole = sum(e.whole for e in errors.values()) or 1.0
    return {
        "rounding_error": sum(e.calibrated for e in errors.values()) / whole,
        "rounding_error_plain": sum(e.plain for e in errors.values()) / whole,
        "plain_rows": sum(e.plain_rows for e in errors.values())
        / max(1, sum(e.rows for e in errors.values())),
    }


def table(errors: Mapping[str, RoundingError]) -> dict[str, list[float]]:
    """Return for each matrix both errors, as shares of what it gives, and its plain rows."""
    return {
        name: [e.calibrated / (e.whole or 1.0), e.plain / (e.whole or 1.0), e.plain_rows]
        for name, e in sorted(errors.items())
    }


def is_rounded(recipe: TensorRecipe) -> bool:
    """Return whether a tensor is one that GPTQ rounds; 8 bits lose too little to be worth it."""
    return recipe.quantised is not None and recipe.quantised.bits == 4


def columns_of(view: View) -> set[str]:
    """Return the weights whose whole rows are a view's rows [n, k], in any order of rows.

    Empty where its columns are not those of weights.
    """
    node = view.of
    if len(view.shape) != 2 or view.strides[1] != 1:
        return set()
    k = view.shape[1]
    if len(node.shape) != 2 or node.shape[1] != k or view.offset % k or view.strides[0] % k:
        return set()
    if isinstance(node, Source):
        return {node.weight}
    if isinstance(node, Add) or (isinstance(node, Concat) and node.dim != 0):
        return set()
    parts = [node.part] if isinstance(node, Cast) else node.parts
    names = [columns_of(part) for part in parts]
    return set().union(*names) if all(names) else set()


class _Factors:
    """Moments with their factors, each computed once for the tensors that share an input.

    The last `THREADS` are kept. They are computed one at a time, since that takes 40 bytes for each
    of k^2 numbers.
    """

    def __init__(self) -> None:
        self._lock, self._one = threading.Lock(), threading.Lock()
        self._kept: dict[str, Future[tuple[np.ndarray, gptq.Factor]]] = {}

    def of(self, half: Weight) -> tuple[np.ndarray, gptq.Factor]:
        """Return moments, float32 [k, k], and their factor."""
        with self._lock:
            future = self._kept.get(half.digest)
            is_ours = future is None
            if future is None:
                future = self._kept[half.digest] = Future()
            while len(self._kept) > blockwise.THREADS:
                del self._kept[next(iter(self._kept))]
        if is_ours:
            try:
                with self._one:
                    future.set_result(_factor(half))
            except BaseException as e:
                future.set_exception(e)
                raise
        return future.result()


def _factor(half: Weight) -> tuple[np.ndarray, gptq.Factor]:
    moments = dense(half)
    return moments.astype(np.float32), gptq.factor(moments)


def dense(half: Weight) -> np.ndarray:
    """Return moments, float64 [k, k], of their stored half."""
    stored = np.frombuffer(half.read(), np.float32)
    k = int((np.sqrt(8 * len(stored) + 1) - 1) / 2)
    moments = np.zeros((k, k))
    moments[np.tril_indices(k)] = stored
    moments += np.tril(moments, -1).T
    return moments


def _values(stored: np.ndarray, recipe: TensorRecipe) -> tuple[np.ndarray, str]:
    """Return stored numbers as float32 once they are cast, and the format that they have then."""
    dtype = recipe.view.of.dtype
    values = blockwise.widen(stored, dtype)
    if recipe.dtype == "F32":
        return values, dtype
    return blockwise.widen(blockwise.narrow(values, recipe.dtype), recipe.dtype), recipe.dtype


def _rounded(
    stored: np.ndarray,
    recipe: TensorRecipe,
    quantiser: blockwise.Quantiser,
    factor: gptq.Factor,
    moments: np.ndarray,
    weights: Mapping[str, Weight],
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], RoundingError]:
    """Return some rows, stored numbers [n, k], rounded, and their error. Raises NotFinite."""
    values, dtype = _values(stored, recipe)
    if dtype != recipe.view.of.dtype:
        stored = blockwise.narrow(values, dtype)
    nearest = quantiser(stored, dtype)
    if not blockwise.is_finite(nearest[1], quantiser.scales):
        raise not_finite(recipe, weights)

    def errors(rounded: gptq.Rounded) -> np.ndarray:
        return gptq.errors_of(values - rounded.values(quantiser.scales, block), moments)

    block = quantiser.block
    plain = gptq.of_parts(nearest, stored.shape)
    grid = gptq.grid_of(values, factor.weight, quantiser, plain)
    rounded = gptq.round_to(values, grid, factor, quantiser)
    ours, theirs = errors(rounded), errors(plain)
    better = ours < theirs
    taken = rounded.where(better, plain)
    return taken.parts(quantiser), RoundingError(
        calibrated=float(np.where(better, ours, theirs).sum()),
        plain=float(theirs.sum()),
        whole=float(gptq.errors_of(values, moments).sum()),
        rows=len(values),
        plain_rows=int((~better).sum()),
    )
