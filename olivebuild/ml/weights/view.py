"""A model as its tensors: name, dtype, shape, digest, and where the bytes are.

They are in a folder, or in an overlay in the store. No arithmetic is done here. Nothing is copied
and no file is opened until bytes are asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from olivebuild.cache import tensor_locations
from olivebuild.cache.manifest import Entry, Manifest, Merge
from olivebuild.cache.store import Store
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged, InputError
from olivebuild.core.fs import opening
from olivebuild.core.fs.positioned import pread
from olivebuild.core.fs.small_files import parse_json
from olivebuild.formats import safetensors, weight_files


@dataclass(frozen=True)
class Weight:
    """One tensor: `dtype` as safetensors writes it, `size` in bytes, `digest` of its bytes.

    The bytes are in row-major order at `place`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    size: int
    place: ByteRange

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from `start` (all by default).

        Raises InputError when they are not there.
        """
        wanted = self.size - start if size is None else size
        try:
            data = read_at(self.place, start, wanted)
        except OSError:
            data = b""
        if len(data) < wanted:
            raise InputError(
                f"{self.name} ends early",
                where=str(self.place.path),
                hint="did the file change while it was read?",
            )
        return data


def read_at(place: ByteRange, start: int, size: int) -> bytes:
    """Return up to `size` bytes from `start` of a range. Raises OSError."""
    file = opening.open_handle(place.path)
    try:
        parts, done = [], 0
        while done < size and (chunk := pread(file, size - done, place.offset + start + done)):
            parts.append(chunk)
            done += len(chunk)
    finally:
        os.close(file)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True)
class Shard:
    """A safetensors file: its header (length included), and its tensors in the order of bytes."""

    name: str
    header: bytes
    weights: tuple[Weight, ...]


@dataclass(frozen=True)
class Weights:
    """A model or adapter.

    `files` are (name, digest, place) of all files without weights. `lender` is the model digest of
    the folder that tensors are lent by. `merges` say how tensors are computed that are not stored.
    `index` is the name of the file that maps tensors to shards.
    """

    shards: tuple[Shard, ...]
    files: tuple[tuple[str, str, ByteRange], ...]
    lender: str = ""
    merges: tuple[Merge, ...] = ()
    index: str = ""

    @property
    def by_name(self) -> dict[str, Weight]:
        """All tensors by their names."""
        return {w.name: w for shard in self.shards for w in shard.weights}

    def file(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the model. Raises InputError when it is not there."""
        text = self.bytes_of(name)
        if text is not None and isinstance(data := parse_json(text), dict):
            return data
        raise InputError(
            f"{name} is missing or holds no object", hint="is this a Hugging Face folder?"
        )

    def bytes_of(self, name: str) -> bytes | None:
        """Return a file of the model; None when it is not there."""
        for file, _, place in self.files:
            if file == name:
                return read_at(place, 0, place.size)
        return None

    def index_file(self) -> bytes:
        """Return the content of the index, as transformers writes it."""
        weights = self.by_name.values()
        about = {
            "total_parameters": sum(prod(w.shape) for w in weights),
            "total_size": sum(w.size for w in weights),
        }
        entries = {w.name: shard.name for shard in self.shards for w in shard.weights}
        return (
            json.dumps({"metadata": about, "weight_map": entries}, indent=2, sort_keys=True) + "\n"
        ).encode()

    def check_unchanged(self, store: Store) -> None:
        """Raise InputError unless the files that lend tensors still have the digests taken."""
        lent = {w.digest: w.place.path for w in self.by_name.values() if w.size and w.place.lent}
        ranges = tensor_locations.lenders(store.root, self.lender) if lent else {}
        if gone := [path for digest, path in lent.items() if digest not in ranges]:
            raise InputError(
                f"{gone[0].name} changed while it was read",
                where=str(gone[0].parent),
                hint="nothing was stored; build again",
            )

    def model_digest(self) -> str:
        """Return the same as weight_files.model_digest of the folder."""
        facts = ([w.name, w.dtype, w.shape, w.digest] for w in self.by_name.values())
        return weight_files.digest_of_sums(
            [safetensors.sum_of(facts)], [(name, digest) for name, digest, _ in self.files]
        )

    def structure(self) -> str:
        """Return the digest of all but the weights' values.

        A bias of zeros is one that the ONNX model builder leaves out, so that counts.
        """
        facts = []
        for w in self.by_name.values():
            bias = w.name.endswith("bias") and len(w.shape) == 1
            # -0.0 is a zero too.
            facts.append(
                [w.name, w.dtype, w.shape, bias and not any(w.read().replace(b"\x80", b"\0"))]
            )
        return hashing.of_json(
            [
                "structure",
                sorted(facts, key=lambda f: str(f[0])),
                [[name, digest] for name, digest, _ in self.files],
            ]
        )


def of_folder(store: Store, folder: Path, model: str, *, code: bool = False) -> Weights:
    """Return the model in a Hugging Face folder, whose model digest is `model`.

    Raises InputError when the weights change meanwhile.
    """
    digests = {
        (path, start, size): digest
        for path, digest, start, size in tensor_locations.of_folder(store.root, model, folder)
    }
    where = folder.resolve()
    files, others = weight_files.model_files(where, code=code)
    shards = []
    for path in files:
        tensors = safetensors.tensors_of(path)
        with opening.open_file(path) as f:
            header = f.read(tensors[0].start if tensors else path.stat().st_size)
        weights = []
        for t in tensors:
            place = ByteRange(path, t.start, t.end - t.start, lent=True)
            digest = digests.get((path, t.start, place.size))
            if digest is None:
                raise InputError(
                    f"{path.name} changed while it was read", where=str(folder), hint="build again"
                )
            weights.append(Weight(t.name, t.dtype, t.shape, digest, place.size, place))
        shards.append(Shard(weight_files.name_in(where, path), header, tuple(weights)))
    rest = tuple(
        (
            weight_files.name_in(where, p),
            hashing.of_file(p),
            ByteRange(p, 0, p.stat().st_size, lent=True),
        )
        for p in others
    )
    return Weights(tuple(shards), rest, model, index=weight_files.weight_files(where).index)


def write_folder(weights: Weights, folder: Path) -> None:
    """Write the model as a normal folder; tensors that are not stored are computed."""
    for shard in weights.shards:
        with open(_place(folder, shard.name), "wb") as f:
            f.write(shard.header)
            for weight in shard.weights:
                f.write(weight.read())
    write_files(weights, folder)
    if weights.index:
        _place(folder, weights.index).write_bytes(weights.index_file())


def write_files(weights: Weights, folder: Path) -> None:
    """Write all files but the weights."""
    for name, _, place in weights.files:
        _place(folder, name).write_bytes(read_at(place, 0, place.size))


def _place(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def headers_of(store: Store, manifest: Manifest) -> dict[str, tuple[safetensors.Tensor, int]]:
    """Return name -> (tensor, its size in bytes) of all weights in a manifest. Raises Damaged."""
    headers: dict[str, tuple[safetensors.Tensor, int]] = {}
    for entry in manifest.files:
        if entry.name.endswith(".safetensors"):
            header = store.read(entry.runs()[0][0])
            headers |= {
                t.name: (t, t.end - t.start)
                for t in safetensors.parse_header(header, entry.size, entry.name)
            }
    return headers


def of_manifest(
    store: Store, manifest: Manifest, computed: Mapping[str, Weight] | None = None
) -> Weights:
    """Return the folder in a manifest, its header blobs read and checked.

    `computed` are tensors, by digest, that are not stored. Raises Damaged.
    """
    if damage := store.missing(manifest, computed=True):
        raise damage
    shards, rest, index = [], [], ""
    for entry in manifest.files:
        if entry.name.endswith(".safetensors.index.json"):
            # Written again from the shards wherever it is needed.
            index = entry.name
            continue
        if not entry.name.endswith(".safetensors"):
            (blob, size), *more = entry.runs()
            if more:
                raise Damaged(entry.digest, "is in pieces, which only weights may be")
            rest.append((entry.name, entry.digest, store.find(blob, size, manifest.base)))
            continue
        shards.append(_shard(store, entry, manifest.base, computed or {}))
    return Weights(
        tuple(shards),
        tuple(sorted(rest, key=lambda r: r[0])),
        manifest.base,
        manifest.merges,
        index,
    )


def _shard(store: Store, entry: Entry, base: str, computed: Mapping[str, Weight]) -> Shard:
    """Return the shard in a manifest's entry, whose first blob is its header. Raises Damaged."""
    (blob, _), *runs = entry.runs()
    header = store.read(blob)
    tensors = safetensors.parse_header(header, entry.size, entry.name)
    full = [t for t in tensors if t.end > t.start]
    if [t.end - t.start for t in full] != [size for _, size in runs]:
        raise Damaged(entry.digest, "does not have one blob a tensor")
    blobs = {t.name: run for t, run in zip(full, runs, strict=True)}
    weights = []
    for t in tensors:
        blob, size = blobs.get(t.name, (hashing.of_bytes(b""), 0))
        if blob in computed:
            weights.append(replace(computed[blob], name=t.name))
        else:
            place = store.find(blob, size, base)
            weights.append(Weight(t.name, t.dtype, t.shape, blob, size, place))
    return Shard(entry.name, header, tuple(weights))
