"""A model as its tensors: name, type, shape, digest, and where the bytes lie, be it a folder or an
overlay in the store.

Knows nothing of arithmetic. Nothing is copied and no file is opened until bytes are asked for.
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
from olivebuild.cache.manifest import Manifest, Merge
from olivebuild.cache.store import Store
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged, InputError
from olivebuild.core.fs import opening
from olivebuild.core.fs.positioned import pread
from olivebuild.core.fs.small_files import parse_json
from olivebuild.formats import safetensors


@dataclass(frozen=True)
class Weight:
    """One tensor: `dtype` as safetensors writes it, `size` in bytes, `digest` of its bytes, which
    are in row-major order at `place`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    size: int
    place: ByteRange

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `start` (all by default). Raises InputError when they are not there."""
        wanted = self.size - start if size is None else size
        try:
            found = read_at(self.place, start, wanted)
        except OSError:
            found = b""
        if len(found) < wanted:
            raise InputError(
                f"{self.name} ends early",
                where=str(self.place.path),
                hint="did the file change while it was read?",
            )
        return found


def read_at(place: ByteRange, start: int, size: int) -> bytes:
    """Up to `size` bytes from `start` of a place. Raises OSError."""
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
    """A safetensors file: its header (length included) and its tensors in the order of their
    bytes.
    """

    name: str
    header: bytes
    weights: tuple[Weight, ...]


@dataclass(frozen=True)
class Weights:
    """`files` are (name, digest, place) of the model's other files; `lender` is the model digest of
    the folder that tensors are lent by.

    `merges` tell how those come about that are not stored; `index` is the name of the file that
    tells which shard holds what.
    """

    shards: tuple[Shard, ...]
    files: tuple[tuple[str, str, ByteRange], ...]
    lender: str = ""
    merges: tuple[Merge, ...] = ()
    index: str = ""

    @property
    def by_name(self) -> dict[str, Weight]:
        return {w.name: w for shard in self.shards for w in shard.weights}

    def file(self, name: str) -> dict[str, Any]:
        """A JSON file of the model. Raises InputError when it is not there."""
        text = self.bytes_of(name)
        if text is not None and isinstance(data := parse_json(text), dict):
            return data
        raise InputError(
            f"{name} is missing or holds no object", hint="is this a Hugging Face folder?"
        )

    def bytes_of(self, name: str) -> bytes | None:
        """A file of the model; None when it is not there."""
        return next(
            (read_at(place, 0, place.size) for found, _, place in self.files if found == name), None
        )

    def index_file(self) -> bytes:
        """The content of the index, as transformers writes it."""
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
        """Raises InputError unless the files that lend tensors are still as they were when their
        digests were taken.
        """
        lent = {w.digest: w.place.path for w in self.by_name.values() if w.size and w.place.lent}
        known = tensor_locations.lenders(store.root, self.lender) if lent else {}
        if gone := [path for found, path in lent.items() if found not in known]:
            raise InputError(
                f"{gone[0].name} changed while it was read",
                where=str(gone[0].parent),
                hint="nothing was stored; build again",
            )

    def model_digest(self) -> str:
        """The same as tensors.model_digest of the folder."""
        facts = ([w.name, w.dtype, w.shape, w.digest] for w in self.by_name.values())
        return safetensors.digest_of_sums(
            [safetensors.sum_of(facts)], [(name, found) for name, found, _ in self.files]
        )

    def structure(self) -> str:
        """The digest of all but the weights' values.

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
                [[name, found] for name, found, _ in self.files],
            ]
        )


def of_folder(store: Store, folder: Path, model: str, *, code: bool = False) -> Weights:
    """The model in a Hugging Face folder, whose model digest is known.

    Raises InputError when the weights change meanwhile.
    """
    known = {
        (path, start, size): found
        for path, found, start, size in tensor_locations.of_folder(store.root, model, folder)
    }
    where = folder.resolve()
    files, others = safetensors.model_files(where, code=code)
    shards = []
    for path in files:
        found = safetensors.tensors_of(path)
        with opening.open_file(path) as f:
            header = f.read(found[0].start if found else path.stat().st_size)
        weights = []
        for t in found:
            place = ByteRange(path, t.start, t.end - t.start, lent=True)
            if (path, t.start, place.size) not in known:
                raise InputError(
                    f"{path.name} changed while it was read", where=str(folder), hint="build again"
                )
            weights.append(
                Weight(
                    t.name, t.dtype, t.shape, known[path, t.start, place.size], place.size, place
                )
            )
        shards.append(Shard(safetensors.name_in(where, path), header, tuple(weights)))
    rest = tuple(
        (
            safetensors.name_in(where, p),
            hashing.of_file(p),
            ByteRange(p, 0, p.stat().st_size, lent=True),
        )
        for p in others
    )
    return Weights(tuple(shards), rest, model, index=safetensors.weight_files(where).index)


def write_folder(weights: Weights, folder: Path) -> None:
    """The model as a normal folder, one tensor after the other; what is not stored is computed."""
    for shard in weights.shards:
        with open(_place(folder, shard.name), "wb") as f:
            f.write(shard.header)
            for weight in shard.weights:
                f.write(weight.read())
    write_files(weights, folder)
    if weights.index:
        _place(folder, weights.index).write_bytes(weights.index_file())


def write_files(weights: Weights, folder: Path) -> None:
    """All but the weights."""
    for name, _, place in weights.files:
        _place(folder, name).write_bytes(read_at(place, 0, place.size))


def _place(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def headers_of(store: Store, manifest: Manifest) -> dict[str, tuple[safetensors.Tensor, int]]:
    """Return name -> (tensor, its size in bytes) of a manifest's weights. Raises Damaged."""
    found: dict[str, tuple[safetensors.Tensor, int]] = {}
    for entry in manifest.files:
        if entry.name.endswith(".safetensors"):
            header = store.read(entry.runs()[0][0])
            found |= {
                t.name: (t, t.end - t.start)
                for t in safetensors.parse_header(header, entry.size, entry.name)
            }
    return found


def of_manifest(
    store: Store, manifest: Manifest, computed: Mapping[str, Weight] | None = None
) -> Weights:
    """The folder in a manifest, its header blobs read and checked; `computed`: tensors, by digest,
    that are not stored. Raises Damaged.
    """
    if damage := store.missing(manifest, computed=True):
        raise damage
    made = computed or {}
    shards, rest, index = [], [], ""
    for entry in manifest.files:
        if entry.name.endswith(".safetensors.index.json"):
            # Written anew from the shards wherever it is needed.
            index = entry.name
            continue
        if not entry.name.endswith(".safetensors"):
            (blob, size), *more = entry.runs()
            if more:
                raise Damaged(entry.digest, "is in pieces, which only weights may be")
            rest.append((entry.name, entry.digest, store.find(blob, size, manifest.base)))
            continue
        (head, _), *runs = entry.runs()
        header = store.read(head)
        found = safetensors.parse_header(header, entry.size, entry.name)
        full = [t for t in found if t.end > t.start]
        if [t.end - t.start for t in full] != [size for _, size in runs]:
            raise Damaged(entry.digest, "does not have one blob a tensor")
        blobs = {t.name: run for t, run in zip(full, runs, strict=True)}
        weights = []
        for t in found:
            blob, size = blobs.get(t.name, (hashing.of_bytes(b""), 0))
            if blob in made:
                weights.append(replace(made[blob], name=t.name))
            else:
                weights.append(
                    Weight(
                        t.name, t.dtype, t.shape, blob, size, store.find(blob, size, manifest.base)
                    )
                )
        shards.append(Shard(entry.name, header, tuple(weights)))
    return Weights(
        tuple(shards),
        tuple(sorted(rest, key=lambda r: r[0])),
        manifest.base,
        manifest.merges,
        index,
    )
