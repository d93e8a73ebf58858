"""An ONNX model assembled from its skeleton and a model's weights.

Only tensors whose sources changed are computed; all others are blobs of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from olivebuild.cache.blobs import Batch
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.memo import Blobs, Derived
from olivebuild.cache.store import Store
from olivebuild.core.errors import StepError
from olivebuild.core.host import gpu_names
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.onnx.skeleton import Quantised, Skeleton, TensorRecipe, parts_of
from olivebuild.ml.weights.view import Weight, Weights

SKELETON, CONSTANTS = "skeleton.json", "constants.bin"
INNER = (SKELETON, CONSTANTS)
"""Files of a skeleton that are not part of the model."""


class Rounder(Protocol):
    """A rounding of some tensors in a way of its own, with further blobs after their parts."""

    def takes(self, recipe: TensorRecipe) -> bool:
        """Return whether it rounds a tensor."""

    def key(self, recipe: TensorRecipe, weights: Mapping[str, Weight]) -> str:
        """Return the digest of all that decides the bytes of a tensor."""

    def compute(self, recipe: TensorRecipe, weights: Mapping[str, Weight], batch: Batch) -> Blobs:
        """Compute a tensor that it takes into blobs of `batch`. Raises NotFinite."""

    def computed(self, recipes: Mapping[str, TensorRecipe], parts: Mapping[str, Blobs]) -> None:
        """Take note of what all tensors are, by key."""


def assemble(
    store: Store,
    scratch: Path,
    folder: Path,
    skeleton: Skeleton,
    weights: Weights,
    rounder: Rounder | None = None,
) -> tuple[Manifest, dict[str, int]]:
    """Return the model's manifest, and how many tensors were computed and how many stored already.

    Raises NotFinite.
    """
    keys, parts, computed = tensors_of(store, scratch, skeleton.tensors, weights, rounder)
    runs = _runs(store, (folder / CONSTANTS).read_bytes(), skeleton, keys, parts)
    entries = [
        store.put_file(path, path.name, scratch)
        for path in sorted(folder.iterdir())
        if path.name not in INNER
    ]
    entries.append(Entry.of_runs(skeleton.data, runs))
    return Manifest(tuple(sorted(entries, key=lambda e: e.name))), {
        "tensors_computed": computed,
        "tensors_known": len(parts) - computed,
    }


def tensors_of(
    store: Store,
    scratch: Path,
    recipes: Sequence[TensorRecipe],
    weights: Weights,
    rounder: Rounder | None,
) -> tuple[list[str], dict[str, Blobs], int]:
    """Return each tensor's key, the blobs of all by key, and how many were computed.

    Raises NotFinite.
    """
    by_name, derived = weights.by_name, Derived(store)
    key_of = rounder.key if rounder else TensorRecipe.key
    keys = [key_of(recipe, by_name) for recipe in recipes]
    stored = derived.get(dict.fromkeys(keys))
    by_key = dict(zip(keys, recipes, strict=True))
    computed = _compute_missing(store, scratch, by_key, stored, by_name, rounder)
    # A tensor of a file that was edited meanwhile must not be remembered as what the file held
    # before.
    weights.check_unchanged(store)
    derived.put(computed)
    if rounder:
        rounder.computed(by_key, stored | computed)
    return keys, stored | computed, len(computed)


def _compute_missing(
    store: Store,
    scratch: Path,
    recipes: dict[str, TensorRecipe],
    stored: Mapping[str, Blobs],
    weights: dict[str, Weight],
    rounder: Rounder | None,
) -> dict[str, Blobs]:
    """Compute the tensors, by key, that are not stored; equal ones once. Raises NotFinite."""
    missing = {key: recipe for key, recipe in recipes.items() if key not in stored}
    kernel = kernel_for(sum(_size(recipe, weights) for recipe in missing.values()))
    # Largest first, so that no thread is left with a large one at the end.
    order = sorted(missing.items(), key=lambda item: -_size(item[1], weights))
    with store.batch(scratch, sync=False) as batch:

        def computed(item: tuple[str, TensorRecipe]) -> tuple[str, Blobs]:
            key, recipe = item
            if rounder and rounder.takes(recipe):
                return key, rounder.compute(recipe, weights, batch)
            return key, compute(recipe, weights, batch, kernel)

        return dict(blockwise.in_threads(computed, order))


def _runs(
    store: Store,
    constants: bytes,
    skeleton: Skeleton,
    keys: list[str],
    parts: Mapping[str, Blobs],
) -> list[tuple[str, int]]:
    """Return the (blob, size) pairs of which the data file consists; gaps are zeros.

    Raises StepError.
    """
    runs: list[tuple[str, int]] = []
    end = 0
    for slot in sorted(skeleton.slots, key=lambda s: s.offset):
        if gap := slot.offset - end:
            runs.append((store.put_bytes(bytes(gap)), gap))
        end = slot.offset + slot.size
        if slot.tensor < 0:
            data = constants[slot.part : slot.part + slot.size]
            runs.append((store.put_bytes(data), slot.size))
        else:
            blob, size = parts[keys[slot.tensor]][slot.part]
            if size != slot.size:
                raise StepError(
                    f"{slot.name} came out with {size} bytes instead of {slot.size}",
                    hint="this is a fault of olivebuild; please report it",
                )
            runs.append((blob, size))
    return runs


def _size(recipe: TensorRecipe, weights: dict[str, Weight]) -> int:
    return sum(weights[name].size for name in recipe.sources())


def kernel_for(size: int) -> Callable[[Quantised], blockwise.Quantiser]:
    """Return the quantiser for `size` bytes of weights.

    It runs on a GPU that this action holds, if that saves more than importing torch costs.
    """
    nanoseconds_a_byte, worth = 0.3 if blockwise.native else 3.0, 10.0
    if size * nanoseconds_a_byte * 1e-9 / blockwise.THREADS < worth or not gpu_names():
        return lambda quantised: quantised.kernel
    import torch

    from olivebuild.ml.kernels.blockwise_torch import TorchQuantiser

    if not torch.cuda.is_available():
        return lambda quantised: quantised.kernel
    return lambda q: (
        TorchQuantiser(q.bits, q.block, q.symmetric, q.scales)
        if q.algorithm == "default"
        else q.kernel
    )


def compute(
    recipe: TensorRecipe,
    weights: dict[str, Weight],
    batch: Batch,
    kernel: Callable[[Quantised], blockwise.Quantiser] | None = None,
) -> Blobs:
    """Compute a tensor into blobs of `batch`, one for each part. Raises NotFinite."""
    blobs = [batch.blob() for _ in range(3 if recipe.quantised else 1)]
    sizes = [0] * len(blobs)

    def write(part: int, values: np.ndarray) -> None:
        blobs[part].write(values)
        sizes[part] += values.nbytes

    parts_of(recipe, weights, write, *([kernel] if kernel else []))
    return tuple((blob.done(), size) for blob, size in zip(blobs, sizes, strict=True))
