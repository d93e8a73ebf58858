"""LoRA merged tensor by tensor: W + (B @ A) * scale; other tensors are not copied.

The bytes are those of peft's `merge_and_unload()`. Every tensor of the adapter must belong to a
weight of the base, and every option of its configuration must be one that is understood here:
`changes` raises `NotProvenEqual` otherwise, and peft does the work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from olivebuild.api.action import ActionInput
from olivebuild.cache.manifest import Computed
from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.kernels.matmul import TorchProduct
from olivebuild.ml.weights import patterns as _patterns
from olivebuild.ml.weights.adapter_config import PLAIN_STARTS, PREFIX
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.view import (
    Shard,
    Weight,
    Weights,
    headers_of,
    of_folder,
    of_manifest,
)

PLAIN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "eva_config", "inference_mode",
    "init_lora_weights", "loftq_config", "lora_alpha", "lora_dropout", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
"""Options of a LoRA configuration that are read here, or don't matter to a merge."""

Multiply = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""b [n, r], a [r, k] -> b @ a in float32."""


@dataclass(frozen=True)
class Change:
    """One adapted weight [n, k], and the adapter's `a` [r, k] and `b` [n, r]."""

    weight: Weight
    a: Weight
    b: Weight
    scale: float


def changes(adapter: Weights, model: Weights) -> list[Change]:
    """Return what an adapter changes, in the order of its tensors' names.

    Raises NotProvenEqual, also for an adapter that does not fit: peft then says what is wrong.
    """
    config = adapter.file("adapter_config.json")
    check_config(config)
    stored = model.by_name
    modules = [name.removesuffix(".weight") for name in stored]
    _patterns.check(config, modules, "adapter_config.json")
    changed, rest = _pairs(config, adapter.by_name, stored)
    names = [change.weight.name for change in changed]
    _check_targets(config, stored, set(names))
    if tied := _tied(model, names):
        raise NotProvenEqual(f"{tied} may be tied to another weight")
    if rest:
        raise NotProvenEqual(
            f"the adapter's tensor {min(rest)} is of a sort that is not merged one by one"
        )
    if not changed:
        raise NotProvenEqual("the adapter holds no LoRA tensors")
    _check_dtypes(adapter, stored)
    return changed


def _pairs(
    config: dict[str, Any], tensors: dict[str, Weight], stored: dict[str, Weight]
) -> tuple[list[Change], dict[str, Weight]]:
    """Return LoRA's pairs of tensors with the weights that they change, and all other tensors.

    Raises NotProvenEqual.
    """
    pairs, rest = pairs_in(tensors)
    changed = []
    for stem, a, b in pairs:
        module = stem.removeprefix(PREFIX)
        weight = stored.get(f"{module}.weight")
        if b is None or weight is None or not stem.startswith(PREFIX):
            raise NotProvenEqual(f"{a.name} has no plain weight of that name in the model")
        if not _fit(weight, a, b):
            raise NotProvenEqual(
                f"the shapes of {stem} and of the model's weight don't go together"
            )
        changed.append(Change(weight, a, b, scale_of(config, module, a.shape[0])))
    return changed, rest


def pairs_in(
    tensors: dict[str, Weight],
) -> tuple[list[tuple[str, Weight, Weight | None]], dict[str, Weight]]:
    """Return (stem of the names, a, b) of LoRA's pairs in the order of names, and all others."""
    rest, pairs = dict(tensors), []
    for name in sorted(tensors):
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            pairs.append((stem, rest.pop(name), rest.pop(f"{stem}.lora_B.weight", None)))
    return pairs, rest


def _fit(weight: Weight, a: Weight, b: Weight) -> bool:
    """Return whether a is [r, k], b is [n, r], and the weight is [n, k]."""
    if len(a.shape) != 2 or len(b.shape) != 2:
        return False
    return a.shape[0] == b.shape[1] and weight.shape == (b.shape[0], a.shape[1])


def _check_targets(config: dict[str, Any], stored: dict[str, Weight], changed: set[str]) -> None:
    """Raise NotProvenEqual unless the changed weights are those that target_modules names."""
    targeted = set()
    for name, weight in stored.items():
        if len(weight.shape) == 2 and _targeted(config, name.removesuffix(".weight")):
            targeted.add(name)
    if differing := sorted(targeted ^ changed):
        raise NotProvenEqual(
            f"the adapter's target_modules and its tensors disagree about {differing[0]}"
        )


def _check_dtypes(adapter: Weights, stored: dict[str, Weight]) -> None:
    """Raise NotProvenEqual for dtypes that are not merged here, or more than one in the model."""
    dtypes = {w.dtype for w in stored.values()}
    if len(dtypes) > 1 or not dtypes <= set(blockwise.STORED):
        raise NotProvenEqual(
            f"the model's weights are of the types {', '.join(sorted(dtypes))}, which peft's "
            "loading would make one"
        )
    unknown = sorted({w.dtype for w in adapter.by_name.values()} - set(blockwise.STORED))
    if unknown:
        raise NotProvenEqual(f"the adapter's tensors are of the type {unknown[0]}")


def _tied(model: Weights, names: list[str]) -> str | None:
    """Return the name of a weight that may be tied to another: one outside of the layers.

    None if the configuration says that the two embeddings are not tied. Which ones are, the class
    alone knows.
    """
    if not any(name == "config.json" for name, _, _ in model.files):
        # Of a merge that is computed when it is read: this was asked when it was made.
        return None
    config = model.file("config.json")
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    if config.get("tie_word_embeddings", (text or {}).get("tie_word_embeddings", True)) is False:
        return None
    return next((name for name in names if not re.search(r"\.\d+\.", name)), None)


def check_config(config: dict[str, Any], *, ignored: Collection[str] = ()) -> None:
    """Raise NotProvenEqual for an option that is not understood, but for those `ignored`."""
    if config.get("peft_type") != "LORA":
        raise NotProvenEqual(f"the adapter is of the type {config.get('peft_type')}")
    # What an option of tomorrow means is not known; what is off means nothing.
    unknown = sorted(name for name, value in config.items() if name not in PLAIN and value)
    unknown = [name for name in unknown if name not in ignored]
    if unknown:
        raise NotProvenEqual(f"the adapter sets {unknown[0]}")
    if not all(isinstance(config.get(name), int | float) for name in ("r", "lora_alpha")):
        raise NotProvenEqual("the adapter's configuration lacks its rank or alpha")
    if config.get("bias", "none") != "none":
        raise NotProvenEqual("the adapter has trained biases")
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise NotProvenEqual(
            f"init_lora_weights: {config['init_lora_weights']} changes the base model"
        )


def _targeted(config: dict[str, Any], module: str) -> bool:
    """Return whether target_modules names a module, as in peft's `check_target_module_exists`.

    It is a list of names or ends of names, or a pattern for the whole name.
    """
    targets = config.get("target_modules")
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets or ())


def scale_of(config: dict[str, Any], module: str, rank: int) -> float:
    """Return alpha / r, or alpha / sqrt(r) for rsLoRA (https://arxiv.org/abs/2312.03732).

    Patterns are read as peft's `get_pattern_key` reads them. Raises NotProvenEqual.
    """
    r = _pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    if r != rank:
        raise NotProvenEqual(f"{module} has the rank {rank}, where the configuration says {r}")
    return float(alpha) / math.sqrt(r) if config.get("use_rslora") else float(alpha) / float(r)


def _pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            raise NotProvenEqual(f"the pattern {pattern!r} can't be read") from None
    return default


def matrix_of(weight: Weight) -> np.ndarray:
    """Return a tensor's values in float32."""
    raw = np.frombuffer(weight.read(), blockwise.STORED[weight.dtype])
    return np.ascontiguousarray(blockwise.widen(raw, weight.dtype).reshape(weight.shape))


class Rows:
    """A merged weight, some rows at a time."""

    def __init__(self, change: Change, multiply: Multiply) -> None:
        self.change = change
        self.a, self.b = matrix_of(change.a), matrix_of(change.b)
        self._multiply = multiply

    def before(self, start: int, count: int) -> np.ndarray:
        """Rows of the base's weight, as stored numbers."""
        weight, columns = self.change.weight, self.change.weight.shape[1]
        stored = blockwise.STORED[weight.dtype]
        width = columns * stored.itemsize
        return np.frombuffer(weight.read(start * width, count * width), stored).reshape(
            count, columns
        )

    def merged(self, start: int, before: np.ndarray) -> np.ndarray:
        """Rows of the merged weight, in its own number format."""
        # A BLAS multiplies a few rows by another kernel than many, with other last bits: a short
        # piece goes with the rows before it.
        end = start + len(before)
        first = max(0, min(start, end - blockwise.ROWS))
        delta = self._multiply(self.b[first:end], self.a)[start - first :]
        return blockwise.add_delta(before, self.change.weight.dtype, delta, self.change.scale)


@dataclass(frozen=True)
class MergedWeight(Weight):
    """A merged weight that is computed when it is read, and checked against what it was."""

    change: Change
    known: Computed
    multiply: Multiply

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `start` (all by default).

        Raises Damaged when the bytes are not what they were: another processor or library may add
        in another order.
        """
        wanted = self.size - start if size is None else size
        width, step = self.size // self.shape[0], self.known.rows
        first, last = start // width // step, -(-(start + wanted) // (width * step))
        rows = _rows(self.change, self.multiply)
        parts = []
        for number in range(first, last):
            count = min(step, self.shape[0] - number * step)
            part = rows.merged(number * step, rows.before(number * step, count)).tobytes()
            if hashing.of_bytes(part) != self.known.chunks[number]:
                raise Damaged(self.digest, "comes out differently on this machine")
            parts.append(part)
        skip = start - first * step * width
        return b"".join(parts)[skip : skip + wanted]


@lru_cache(maxsize=blockwise.THREADS)
def _rows(change: Change, multiply: Multiply) -> Rows:
    """Return the rows of a merge; cached, since a weight is read piece by piece by one thread."""
    return Rows(change, multiply)


def multiplication(store: Store, *, reproducible: bool) -> Multiply:
    """Return the product of matrices; a `reproducible` one gives equal bits on all processors."""
    return blockwise.product_reproducible if reproducible else TorchProduct(store.root)


def open_input(store: Store, source: ActionInput) -> Weights:
    """Open a model or adapter that is an action's input, with the weights yet to be merged.

    Raises Damaged, InputError.
    """
    if source.folder:
        return of_folder(store, Path(source.folder), source.digest, code=source.trust_remote_code)
    manifest = store.manifest(source.manifest)
    headers, computed = headers_of(store, manifest) if manifest.merges else {}, dict[str, Weight]()
    for merge in manifest.merges:
        adapter = of_manifest(store, store.manifest(merge.adapter))
        base = []
        for tensor in merge.tensors:
            t, size = headers[tensor.name]
            place = store.find(tensor.base, size, manifest.base)
            base.append(
                computed.get(tensor.base)
                or Weight(t.name, t.dtype, t.shape, tensor.base, size, place)
            )
        by_name = {t.name: t for t in merge.tensors}
        for change in changes(adapter, Weights((Shard("", b"", tuple(base)),), ())):
            weight, tensor = change.weight, by_name[change.weight.name]
            computed[tensor.digest] = MergedWeight(
                name=weight.name,
                dtype=weight.dtype,
                shape=weight.shape,
                digest=tensor.digest,
                size=weight.size,
                place=structs.replace(weight.place, lent=False),
                change=change,
                known=tensor,
                multiply=multiplication(store, reproducible=merge.reproducible),
            )
    return of_manifest(store, manifest, computed)


def without_merges(model: Weights) -> Weights:
    """Return the model with the base's values for weights yet to be merged.

    That is enough where values don't matter.
    """

    def base(weight: Weight) -> Weight:
        return base(weight.change.weight) if isinstance(weight, MergedWeight) else weight

    return replace(
        model,
        shards=tuple(replace(s, weights=tuple(base(w) for w in s.weights)) for s in model.shards),
    )
