"""LoRA merged tensor by tensor: W + (B @ A) * scale for the adapted weights, everything else left
where it lies.

The bytes are those of peft's `merge_and_unload()`. Every tensor of the adapter must belong to a
weight of the base, and every option of its configuration must be one that is understood here:
`changes` raises `NotProvenEqual` otherwise, and peft does the work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from olivebuild.api.action import ActionInput
from olivebuild.cache.blobs import BlobWriter
from olivebuild.cache.manifest import Computed, Entry, Manifest, Merge
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
    read_at,
)

PLAIN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "eva_config", "inference_mode",
    "init_lora_weights", "loftq_config", "lora_alpha", "lora_dropout", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
"""Options of a LoRA configuration that are read here, or don't matter to a merge."""
ROUNDING = {"BF16": 2.0**-9, "F16": 2.0**-12, "F32": 2.0**-16}
"""Half a unit in the last place, relative; for float32 the sums of the check itself are coarser
than that.
"""
ALLOWED = 4.0


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
    """What an adapter changes.

    Raises NotProvenEqual, also for an adapter that does not fit: peft then says what is wrong.
    """
    config = adapter.file("adapter_config.json")
    _check(config)
    found, stored = adapter.by_name, model.by_name
    _patterns.check(
        config, [name.removesuffix(".weight") for name in stored], "adapter_config.json"
    )
    result = []
    for name in sorted(found):
        if not name.endswith(".lora_A.weight"):
            continue
        stem = name.removesuffix(".lora_A.weight")
        module = stem.removeprefix(PREFIX)
        first, second = found.pop(name), found.pop(f"{stem}.lora_B.weight", None)
        weight = stored.get(f"{module}.weight")
        if second is None or weight is None or not stem.startswith(PREFIX):
            raise NotProvenEqual(f"{name} has no plain weight of that name in the model")
        if (
            len(first.shape) != 2
            or len(second.shape) != 2
            or first.shape[0] != second.shape[1]
            or weight.shape != (second.shape[0], first.shape[1])
        ):
            raise NotProvenEqual(
                f"the shapes of {stem} and of the model's weight don't go together"
            )
        result.append(Change(weight, first, second, _scale(config, module, first.shape[0])))
    wanted = {
        name
        for name, weight in stored.items()
        if len(weight.shape) == 2 and _targeted(config, name.removesuffix(".weight"))
    }
    if odd := sorted(wanted ^ {c.weight.name for c in result}):
        raise NotProvenEqual(
            f"the adapter's target_modules and its tensors disagree about {odd[0]}"
        )
    if tied := _tied(model, [c.weight.name for c in result]):
        raise NotProvenEqual(f"{tied} may be tied to another weight")
    if found:
        raise NotProvenEqual(
            f"the adapter's tensor {min(found)} is of a sort that is not merged one by one"
        )
    if not result:
        raise NotProvenEqual("the adapter holds no LoRA tensors")
    kinds = {w.dtype for w in stored.values()}
    if len(kinds) > 1 or not kinds <= set(blockwise.STORED):
        raise NotProvenEqual(
            f"the model's weights are of the types {', '.join(sorted(kinds))}, which peft's "
            "loading would make one"
        )
    strange = sorted({w.dtype for w in adapter.by_name.values()} - set(blockwise.STORED))
    if strange:
        raise NotProvenEqual(f"the adapter's tensors are of the type {strange[0]}")
    return result


def _tied(model: Weights, names: list[str]) -> str | None:
    """A weight outside of the layers, unless the configuration says that the two embeddings are not
    tied: which ones are, the class alone knows.
    """
    if not any(name == "config.json" for name, _, _ in model.files):
        # Of a merge that is computed when it is read: this was asked when it was made.
        return None
    config = model.file("config.json")
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    if config.get("tie_word_embeddings", (text or {}).get("tie_word_embeddings", True)) is False:
        return None
    return next((name for name in names if not re.search(r"\.\d+\.", name)), None)


def _check(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise NotProvenEqual(f"the adapter is of the type {config.get('peft_type')}")
    # What an option of tomorrow means is not known; what is off means nothing.
    odd = sorted(name for name, value in config.items() if name not in PLAIN and value)
    if odd:
        raise NotProvenEqual(f"the adapter sets {odd[0]}")
    if not all(isinstance(config.get(name), int | float) for name in ("r", "lora_alpha")):
        raise NotProvenEqual("the adapter's configuration lacks its rank or alpha")
    if config.get("bias", "none") != "none":
        raise NotProvenEqual("the adapter has trained biases")
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise NotProvenEqual(
            f"init_lora_weights: {config['init_lora_weights']} changes the base model"
        )


def _targeted(config: dict[str, Any], module: str) -> bool:
    """As peft's `check_target_module_exists`: a list of names or ends of names, or a pattern for
    the whole name.
    """
    targets = config.get("target_modules")
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets or ())


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (https://arxiv.org/abs/2312.03732); patterns as
    peft's `get_pattern_key` reads them.
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


def _matrix(weight: Weight) -> np.ndarray:
    raw = np.frombuffer(weight.read(), blockwise.STORED[weight.dtype])
    return np.ascontiguousarray(blockwise.widen(raw, weight.dtype).reshape(weight.shape))


class Rows:
    """A merged weight, some rows at a time."""

    def __init__(self, change: Change, multiply: Multiply) -> None:
        self.change = change
        self.a, self.b = _matrix(change.a), _matrix(change.b)
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
        """Raises Damaged when the bytes are not what they were: another processor or library may
        add in another order.
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
    """A weight is read a piece at a time, by one thread: its adapter's matrices are kept while that
    lasts.
    """
    return Rows(change, multiply)


def multiplication(store: Store, *, reproducible: bool) -> Multiply:
    """How the adapter's matrices are multiplied."""
    return blockwise.product_reproducible if reproducible else TorchProduct(store.root)


def open_input(store: Store, given: ActionInput) -> Weights:
    """A model or adapter that is an action's input, with the weights that are yet to be merged.

    Raises Damaged, InputError.
    """
    if given.folder:
        return of_folder(store, Path(given.folder), given.digest, code=given.trust_remote_code)
    manifest = store.manifest(given.manifest)
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
        known = {t.name: t for t in merge.tensors}
        for change in changes(adapter, Weights((Shard("", b"", tuple(base)),), ())):
            w, k = change.weight, known[change.weight.name]
            nowhere = structs.replace(w.place, lent=False)
            computed[k.digest] = MergedWeight(
                w.name,
                w.dtype,
                w.shape,
                k.digest,
                w.size,
                nowhere,
                change,
                k,
                multiplication(store, reproducible=merge.reproducible),
            )
    return of_manifest(store, manifest, computed)


def without_merges(model: Weights) -> Weights:
    """The model with the base's values for the weights that are yet to be merged: enough where
    values don't matter.
    """

    def base(weight: Weight) -> Weight:
        return base(weight.change.weight) if isinstance(weight, MergedWeight) else weight

    return replace(
        model,
        shards=tuple(replace(s, weights=tuple(base(w) for w in s.weights)) for s in model.shards),
    )


@dataclass(frozen=True)
class HeldWeight(Weight):
    """A weight in memory."""

    pieces: tuple[bytes, ...]
    """Of one size, but for the last."""

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        end, length = self.size if size is None else start + size, len(self.pieces[0])
        first = start // length
        skip = start - first * length
        return b"".join(self.pieces[first : -(-end // length)])[skip : skip + end - start]


def merge_all(
    groups: list[list[Change]],
    multiply: Multiply,
    write: Callable[[], BlobWriter] | None = None,
    take: Callable[[list[Weight]], None] | None = None,
) -> tuple[list[Computed], float]:
    """Merge each weight, write it, if asked, and hand each group over; what came out, and the
    largest error as `_merge_one` counts.

    Raises ValueError when a merged weight is not finite or is not what the adapter says.
    """

    def one(group: list[Change]) -> list[tuple[Computed, float]]:
        done, held = [], list[Weight]()
        for change in group:
            pieces: list[bytes] | None = [] if take else None
            computed, error = _merge_one(Rows(change, multiply), write() if write else None, pieces)
            if not error < ALLOWED:
                raise ValueError(
                    f"the merged {computed.name} is not what the adapter says ({error:g} times "
                    "the rounding error)"
                )
            done.append((computed, error))
            if pieces:
                w = change.weight
                held.append(
                    HeldWeight(
                        w.name, w.dtype, w.shape, computed.digest, w.size, w.place, tuple(pieces)
                    )
                )
        if take:
            take(held)
        return done

    # Largest first, so that no thread is left with a large one at the end.
    order = sorted(groups, key=lambda group: -sum(c.weight.size for c in group))
    done = [d for group in blockwise.in_threads(one, order) for d in group]
    return [computed for computed, _ in done], max(error for _, error in done)


def _merge_one(
    rows: Rows, blob: BlobWriter | None, pieces: list[bytes] | None
) -> tuple[Computed, float]:
    """Merge a weight; how wrong it is, in units of the rounding error: about 0.4 when it is right.

    A product with a random vector checks a product of matrices (Freivalds 1977): (W + sBA)x against
    Wx + sB(Ax), by another route.
    """
    change, weight = rows.change, rows.change.weight
    probe = np.random.default_rng(0).standard_normal(weight.shape[1]).astype(np.float32)
    along, squares, chunks, whole = np.einsum("ij,j->i", rows.a, probe), 0.0, [], hashing.hasher()
    for start in range(0, weight.shape[0], blockwise.ROWS):
        before = rows.before(start, min(blockwise.ROWS, weight.shape[0] - start))
        merged = rows.merged(start, before)
        piece = merged.tobytes()
        chunks.append(hashing.of_bytes(piece))
        whole.update(piece)
        if pieces is not None:
            pieces.append(piece)
        if blob:
            blob.write(piece)
        wrong, lengths = blockwise.residual(before, merged, weight.dtype, probe)
        with np.errstate(invalid="ignore", over="ignore"):
            wrong -= np.float32(change.scale) * np.einsum(
                "ij,j->i", rows.b[start : start + len(before)], along
            )
            # Rounding errors of single numbers add up like the norm of the row, not like their sum.
            squares += float(np.square(wrong / (np.sqrt(lengths) + 1e-30)).sum())
    error = math.sqrt(squares / weight.shape[0]) / ROUNDING[weight.dtype]
    if blob:
        blob.done()
    computed = Computed(
        weight.name, weight.digest, str(whole.hexdigest()), blockwise.ROWS, tuple(chunks)
    )
    return computed, error if math.isfinite(error) else math.inf


def overlay(
    store: Store, model: Weights, computed: list[Computed], merge: Merge | None
) -> tuple[Manifest, Weights]:
    """The model with its merged tensors, which `merge` tells how to compute, or which are stored.

    Shards and headers stay as they are.
    """
    merged = {c.name: c.digest for c in computed}
    entries, shards = [], []
    for shard in model.shards:
        now = tuple(
            replace(w, digest=merged[w.name]) if w.name in merged else w for w in shard.weights
        )
        runs = [
            (store.put_bytes(shard.header), len(shard.header)),
            *((w.digest, w.size) for w in now if w.size),
        ]
        entries.append(Entry.of_runs(shard.name, runs))
        shards.append(Shard(shard.name, shard.header, now))
    for name, _, place in model.files:
        data = read_at(place, 0, place.size)
        entries.append(Entry(name, False, len(data), store.put_bytes(data)))
    if model.index:
        index = model.index_file()
        entries.append(Entry(model.index, False, len(index), store.put_bytes(index)))
    merges = (*model.merges, merge) if merge else model.merges
    manifest = Manifest(tuple(sorted(entries, key=lambda e: e.name)), model.lender, merges)
    return manifest, Weights(tuple(shards), model.files, model.lender, merges, model.index)
