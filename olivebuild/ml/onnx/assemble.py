"""An ONNX model from its skeleton and a model's weights: only tensors whose sources changed are
computed, the rest are known blobs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from olivebuild.cache.blobs import Batch
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.memo import Blobs, Derived
from olivebuild.cache.store import Store
from olivebuild.core.errors import StepError
from olivebuild.core.host import gpu_names
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.onnx.skeleton import Quantised, Recipe, Skeleton, parts_of
from olivebuild.ml.weights.view import Weight, Weights

SKELETON, CONSTANTS = "skeleton.json", "constants.bin"
INNER = (SKELETON, CONSTANTS)
"""Files of a skeleton that are not part of the model."""


def assemble(
    store: Store, scratch: Path, folder: Path, skeleton: Skeleton, weights: Weights
) -> tuple[Manifest, dict[str, int]]:
    """The model's manifest; how many tensors were computed and how many were known.

    Raises NotFinite.
    """
    by_name, derived = weights.by_name, Derived(store)
    keys = [recipe.key(by_name) for recipe in skeleton.tensors]
    known = derived.get(dict.fromkeys(keys))
    kernel = kernel_for(
        sum(
            _size(recipe, by_name)
            for key, recipe in zip(keys, skeleton.tensors, strict=True)
            if key not in known
        )
    )
    # Equal tensors are computed once; the largest first, so that no thread is left with a large one
    # at the end.
    todo = {
        key: recipe for key, recipe in zip(keys, skeleton.tensors, strict=True) if key not in known
    }
    order = sorted(todo.items(), key=lambda item: -_size(item[1], by_name))
    with store.batch(scratch, sync=False) as batch:
        made = dict(
            blockwise.in_threads(
                lambda item: (item[0], compute(item[1], by_name, batch, kernel)), order
            )
        )
    # A tensor of a file that was edited meanwhile must not be remembered as what the file held
    # before.
    weights.check_unchanged(store)
    derived.put(made)
    runs: list[tuple[str, int]] = []
    constants, parts, end = (folder / CONSTANTS).read_bytes(), known | made, 0
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
    entries = [
        store.put_file(path, path.name, scratch)
        for path in sorted(folder.iterdir())
        if path.name not in INNER
    ]
    entries.append(Entry.of_runs(skeleton.data, runs))
    return Manifest(tuple(sorted(entries, key=lambda e: e.name))), {
        "tensors_computed": len(made),
        "tensors_known": len(known),
    }


def _size(recipe: Recipe, weights: dict[str, Weight]) -> int:
    return sum(weights[name].size for name in recipe.sources())


def kernel_for(size: int) -> Callable[[Quantised], blockwise.Quantiser]:
    """Where to quantise `size` bytes of weights: on a GPU that this action holds, if that saves
    more than importing torch costs.
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
    recipe: Recipe,
    weights: dict[str, Weight],
    batch: Batch,
    kernel: Callable[[Quantised], blockwise.Quantiser] | None = None,
) -> Blobs:
    blobs = [batch.blob() for _ in range(3 if recipe.quantised else 1)]
    sizes = [0] * len(blobs)

    def write(part: int, values: np.ndarray) -> None:
        blobs[part].write(values)
        sizes[part] += values.nbytes

    parts_of(recipe, weights, write, *([kernel] if kernel else []))
    return tuple((blob.done(), size) for blob, size in zip(blobs, sizes, strict=True))
