"""Merges of LoRA adapters carried out: each weight once, in threads, checked and handed to a sink.

The result is an overlay: the base's manifest with other tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from olivebuild.cache.blobs import Batch, BlobWriter
from olivebuild.cache.manifest import Computed, Entry, Manifest, Merge
from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.weights.lora import Change, Multiply, Rows
from olivebuild.ml.weights.view import Shard, Weight, Weights, read_at

ROUNDING = {"BF16": 2.0**-9, "F16": 2.0**-12, "F32": 2.0**-16}
"""Half a unit in the last place, relative; for float32 the sums of the check itself are coarser."""
ALLOWED = 4.0
"""The largest error of a merge, in units of the rounding error."""


class GroupSink:
    """The sink of one group of weights, used by one thread.

    It stores each weight as a blob of `batch`, or nothing without one. For each weight `begin` is
    called, then `rows` for each piece in order, then `end`; and `close` after the last weight.
    """

    def __init__(self, batch: Batch | None) -> None:
        self._batch = batch
        self._blob: BlobWriter | None = None

    def begin(self, weight: Weight) -> None:
        """Begin a weight; `weight` is the base's."""
        self._blob = self._batch.blob() if self._batch else None

    def rows(self, piece: bytes) -> None:
        """Take the next rows of the merged weight, as stored numbers."""
        if self._blob:
            self._blob.write(piece)

    def end(self, computed: Computed) -> None:
        """End a weight, whose digests are known now."""
        if self._blob:
            self._blob.done()

    def close(self) -> None:
        """End the group."""


class MergeSink:
    """The sink of a merge: it decides which weights are merged together, and opens their sinks."""

    def __init__(self, batch: Batch | None = None) -> None:
        self.batch = batch

    def groups(self, changed: list[Change]) -> list[list[Change]]:
        """Return the changes, those together that are consumed together."""
        return [[change] for change in changed]

    def open(self) -> GroupSink:
        """Return the sink of a group."""
        return GroupSink(self.batch)

    def finish(self) -> None:
        """Keep what came of all groups; called when the batch has ended."""


@dataclass(frozen=True)
class HeldWeight(Weight):
    """A weight in memory."""

    pieces: tuple[bytes, ...]
    """Of one size, but for the last."""

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `start` (all by default)."""
        end, length = self.size if size is None else start + size, len(self.pieces[0])
        first = start // length
        skip = start - first * length
        return b"".join(self.pieces[first : -(-end // length)])[skip : skip + end - start]


class HoldingSink(GroupSink):
    """A group's sink that holds its merged weights in memory, and has them consumed at the end."""

    def __init__(self, batch: Batch | None, consume: Callable[[list[Weight]], None]) -> None:
        super().__init__(batch)
        self._consume = consume
        self._held: list[Weight] = []
        self._weight: Weight
        self._pieces: list[bytes]

    def begin(self, weight: Weight) -> None:
        super().begin(weight)
        self._weight, self._pieces = weight, []

    def rows(self, piece: bytes) -> None:
        super().rows(piece)
        self._pieces.append(piece)

    def end(self, computed: Computed) -> None:
        super().end(computed)
        if self._pieces:
            w = self._weight
            self._held.append(
                HeldWeight(
                    w.name, w.dtype, w.shape, computed.digest, w.size, w.place, tuple(self._pieces)
                )
            )

    def close(self) -> None:
        self._consume(self._held)


def merge_all(
    changed: list[Change], multiply: Multiply, sink: MergeSink
) -> tuple[list[Computed], float]:
    """Merge each weight into `sink`; return what came out, and the largest error.

    Errors are in units of the rounding error, as of `_merge_one`. Raises ValueError when a merged
    weight is not finite or is not what the adapter says.
    """

    def merge_group(group: list[Change]) -> list[tuple[Computed, float]]:
        merged, group_sink = [], sink.open()
        for change in group:
            computed, error = _merge_one(Rows(change, multiply), group_sink)
            if not error < ALLOWED:
                raise ValueError(
                    f"the merged {computed.name} is not what the adapter says ({error:g} times "
                    "the rounding error)"
                )
            merged.append((computed, error))
        group_sink.close()
        return merged

    # Largest first, so that no thread is left with a large one at the end.
    order = sorted(sink.groups(changed), key=lambda group: -sum(c.weight.size for c in group))
    merged = [pair for group in blockwise.in_threads(merge_group, order) for pair in group]
    return [computed for computed, _ in merged], max(error for _, error in merged)


def _merge_one(rows: Rows, sink: GroupSink) -> tuple[Computed, float]:
    """Merge a weight; return its digests and its error, about 0.4 when it is right.

    A product with a random vector checks a product of matrices (Freivalds 1977): (W + sBA)x against
    Wx + sB(Ax), by another route.
    """
    change, weight = rows.change, rows.change.weight
    probe = np.random.default_rng(0).standard_normal(weight.shape[1]).astype(np.float32)
    along, squares, chunks, whole = np.einsum("ij,j->i", rows.a, probe), 0.0, [], hashing.hasher()
    sink.begin(weight)
    for start in range(0, weight.shape[0], blockwise.ROWS):
        before = rows.before(start, min(blockwise.ROWS, weight.shape[0] - start))
        merged = rows.merged(start, before)
        piece = merged.tobytes()
        chunks.append(hashing.of_bytes(piece))
        whole.update(piece)
        sink.rows(piece)
        wrong, lengths = blockwise.residual(before, merged, weight.dtype, probe)
        with np.errstate(invalid="ignore", over="ignore"):
            wrong -= np.float32(change.scale) * np.einsum(
                "ij,j->i", rows.b[start : start + len(before)], along
            )
            # Rounding errors of single numbers add up like the norm of the row, not like their sum.
            squares += float(np.square(wrong / (np.sqrt(lengths) + 1e-30)).sum())
    error = math.sqrt(squares / weight.shape[0]) / ROUNDING[weight.dtype]
    computed = Computed(
        weight.name, weight.digest, str(whole.hexdigest()), blockwise.ROWS, tuple(chunks)
    )
    sink.end(computed)
    return computed, error if math.isfinite(error) else math.inf


def overlay(
    store: Store, model: Weights, computed: list[Computed], merge: Merge | None
) -> tuple[Manifest, Weights]:
    """Return the model with its merged tensors; they are stored, or computed as `merge` says.

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
