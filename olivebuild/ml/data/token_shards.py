"""A data set as tokens, in shards that are stored in the cache.

An edited row has its own shard tokenised again, and no other. The end of a shard is decided by its
rows, so that an added row moves no border but its own. Tokens are blobs of the store and are
mapped, not read: memory does not grow with the rows. Losing them costs time, nothing else.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from olivebuild.cache.memo import Derived
from olivebuild.core import hashing
from olivebuild.core.host import installed
from olivebuild.formats.weight_files import model_files
from olivebuild.ml.data.examples import Flaw, Tokens
from olivebuild.ml.data.tokens import COUNTS, Encoder

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.cache.store import Store

VERSION = 4
SHARD = 4096
"""Rows of a shard, on average."""
LARGEST = 4 * SHARD
BATCH = 1024


class Flawed(NamedTuple):
    """A row of the file with a flaw, by its number: one that is left out, or cut."""

    row: int
    flaw: Flaw
    cut: bool


@dataclass(frozen=True)
class Shard:
    """Rows end to end: all ids, which are counted, and the starts of rows (and the last's end)."""

    ids: np.ndarray
    counted: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass
class TokenRows(Sequence[Tokens]):
    """The rows of all shards that have something to learn from."""

    shards: list[Shard] = field(default_factory=list)
    flawed: list[Flawed] = field(default_factory=list)
    known: int = 0
    """Shards that were tokenised before."""
    counts: Counter[str] = field(default_factory=Counter)
    """Counts of rows to report, by the names of `tokens.COUNTS`."""
    ends: list[int] = field(default_factory=list)
    """The tokens that end what is learnt."""
    format: str = ""

    def __post_init__(self) -> None:
        self._ends = np.cumsum([len(s) for s in self.shards])
        self._offsets = np.cumsum([0, *(len(s.ids) for s in self.shards)])
        self.lengths = (
            np.concatenate([np.diff(s.starts) for s in self.shards])
            if self.shards
            else np.zeros(0, np.int64)
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def truncated(self) -> int:
        """Rows of which a part is trained on."""
        return sum(f.cut for f in self.flawed)

    @property
    def dropped(self) -> int:
        """Rows of which nothing is."""
        return len(self.flawed) - self.truncated

    @property
    def read(self) -> int:
        return len(self) + self.dropped

    def numbers(self) -> np.ndarray:
        """The number that each row has in the file."""
        return np.setdiff1d(np.arange(self.read), [f.row for f in self.flawed if not f.cut])

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.shards[number]
        row = index - int(self._ends[number]) + len(shard)
        a, b = int(shard.starts[row]), int(shard.starts[row + 1])
        return Tokens(np.asarray(shard.ids[a:b]), np.asarray(shard.counted[a:b]))

    def piece(self, start: int, stop: int) -> Tokens:
        """Return a span of all rows end to end: the tokens from `start` up to `stop`."""
        ids, counted = [], []
        number = int(np.searchsorted(self._offsets, start, side="right")) - 1
        while start < stop:
            shard, offset = self.shards[number], int(self._offsets[number])
            a, b = start - offset, min(stop - offset, len(shard.ids))
            ids.append(shard.ids[a:b])
            counted.append(shard.counted[a:b])
            start, number = offset + b, number + 1
        if not ids:
            return Tokens(np.zeros(0, np.int32), np.zeros(0, bool))
        return Tokens(np.concatenate(ids), np.concatenate(counted))

    def figures(self) -> dict[str, Any]:
        """Rows by length, up to each power of two, and what was cut or dropped."""
        tops, counts = np.unique(
            np.maximum(4, np.ceil(np.log2(np.maximum(self.lengths, 1)))).astype(int),
            return_counts=True,
        )
        counted = int(sum(s.counted.sum() for s in self.shards))
        figures: dict[str, Any] = {
            "rows": len(self),
            "tokens": int(self.lengths.sum()),
            "counted": counted,
        }
        figures |= {
            "truncated": self.truncated,
            "dropped": self.dropped,
            "shards": len(self.shards),
            "shards_known": self.known,
        }
        return figures | {
            "lengths": {f"{2**top}": int(n) for top, n in zip(tops, counts, strict=True)}
        }


def lengths_of(rows: Sequence[Tokens]) -> np.ndarray:
    """Return the number of tokens of each row, read from tokens only where rows don't tell it."""
    lengths: np.ndarray | None = getattr(rows, "lengths", None)
    return np.array([len(row) for row in rows]) if lengths is None else lengths


def token_rows(job: Job, encoder: Encoder, folder: str, path: str, loss: str) -> TokenRows:
    """Return the rows of a Parquet file, tokenised with the tokenizer in `folder`.

    Shards that are stored are not tokenised again.
    """
    derived, result = Derived(job.store), TokenRows()
    result.format, completions = _completions(path)
    encoder.read_ends(result.format, completions)
    about = [
        *_about(folder, encoder.max_length, loss),
        *encoder.about,
        sorted(encoder.written),
        *([job.action.template_date] if job.action.template_date else []),
    ]
    # The parent forbids it for processes that fork; this one does not.
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    shards: list[Shard] = []
    read = 0
    for format_, rows, name in _shards(path):
        key = hashing.of_json([*about, format_, name])
        blobs = derived.get([key]).get(key)
        stored = _load(job.store, blobs[0][0]) if blobs else None
        result.known += stored is not None
        if stored is None:
            data = _encoded(encoder, format_, rows, loss)
            blob = job.store.put_bytes(data)
            derived.put({key: ((blob, len(data)),)})
            stored = _load(job.store, blob)
            assert stored
        shard, flawed, counts = stored
        result.flawed += [f._replace(row=read + f.row) for f in flawed]
        result.counts.update(counts)
        read += len(rows)
        if len(shard):
            shards.append(shard)
        job.progress("tokenising", sum(map(len, shards)), 0)
    ends = sorted(encoder.trained_ends(result.format, loss)) if shards else []
    return TokenRows(shards, result.flawed, result.known, result.counts, ends, result.format)


def _format(path: str) -> str:
    import pyarrow.parquet as pq

    return str((pq.read_schema(path).metadata or {})[b"format"].decode())


def _completions(path: str) -> tuple[str, Iterator[str]]:
    """A data set's format, and its completions where it has a column of them."""
    import pyarrow.parquet as pq

    def texts() -> Iterator[str]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=["completion"]):
                yield from batch.column(0).to_pylist()

    format_ = _format(path)
    return format_, texts() if format_ == "prompt" else iter(())


def _about(folder: str, max_length: int, loss: str) -> list[object]:
    """Return what tokens depend on besides the rows.

    That is all files that a tokenizer reads, the libraries, the length, and the loss.
    """
    files = [[p.name, hashing.of_file(p)] for p in sorted(model_files(Path(folder))[1])]
    return [
        "tokens",
        VERSION,
        files,
        [installed("transformers"), installed("tokenizers")],
        max_length,
        loss,
    ]


def _shards(path: str) -> Iterator[tuple[str, list[dict[str, str]], str]]:
    """Yield (format, rows, digest) of each shard; a shard ends where a row's digest says so."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        format_ = (file.schema_arrow.metadata or {})[b"format"].decode()
        rows: list[dict[str, str]] = []
        whole = hashing.hasher()
        for batch in file.iter_batches(BATCH):
            for row in batch.to_pylist():
                name = hashing.of_json(row)
                rows.append(row)
                whole.update(name.encode())
                if int(name[:8], 16) % SHARD == 0 or len(rows) == LARGEST:
                    yield format_, rows, str(whole.hexdigest())
                    rows, whole = [], hashing.hasher()
        if rows:
            yield format_, rows, str(whole.hexdigest())


def _encoded(encoder: Encoder, format_: str, rows: list[dict[str, str]], loss: str) -> bytes:
    """Return a shard's tokens as a safetensors file."""
    from safetensors.numpy import save

    counted = encoder.counts.copy()
    encoded: list[Tokens] = []
    for i in range(0, len(rows), BATCH):
        encoded += encoder.tokens(format_, rows[i : i + BATCH], loss)
    kept = [t for t in encoded if encoder.keeps(t)]
    flawed = [
        (i, t.flaw.why, t.flaw.length, t.flaw.fault, t.flaw.hint, encoder.keeps(t))
        for i, t in enumerate(encoded)
        if t.flaw
    ]
    tensors: dict[str, np.ndarray] = {
        "ids": np.concatenate([t.ids for t in kept] or [np.zeros(0, np.int32)]).astype(np.int32),
        "counted": np.concatenate([t.counted for t in kept] or [np.zeros(0, bool)]).astype(
            np.uint8
        ),
        "starts": np.cumsum([0, *(len(t) for t in kept)]).astype(np.int64),
        "figures": np.array([encoder.counts[n] - counted[n] for n in COUNTS], np.int64),
        "flawed": np.frombuffer(json.dumps(flawed).encode(), np.uint8),
    }
    return bytes(save(tensors))


def _load(store: Store, blob: str) -> tuple[Shard, list[Flawed], dict[str, int]] | None:
    """Read a shard from the store; None for a blob that is not whole."""
    from safetensors import SafetensorError, safe_open

    path = store.path(blob)
    try:
        if hashing.of_file(path) != blob:
            store.quarantine(blob)
            return None
        # As torch tensors they are mapped; as numpy arrays they would be read.
        with safe_open(path, "pt") as f:
            ids, counted, starts, figures, flawed = (
                f.get_tensor(name).numpy()
                for name in ("ids", "counted", "starts", "figures", "flawed")
            )
    except (OSError, SafetensorError):
        return None
    flaws = [
        Flawed(row, Flaw(why, length, fault, hint), cut)
        for row, why, length, fault, hint, cut in json.loads(flawed.tobytes())
    ]
    return (
        Shard(ids, counted.view(bool), starts),
        flaws,
        dict(zip(COUNTS, figures.tolist(), strict=True)),
    )
