"""Headers of safetensors files, and digests of the tensors in them.

Without torch, from the header's JSON.

Format: https://github.com/huggingface/safetensors#format (8 bytes little-endian header length, JSON
header, tensor bytes).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Struct

from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.core.fs import opening
from olivebuild.core.values.typed import decoder
from olivebuild.formats import not_a_model

HEADER_LIMIT = 100 << 20
COMPLETE = "is the download complete?"

Size = Annotated[int, msgspec.Meta(ge=0)]


class Tensor(Struct, frozen=True):
    """One tensor in a file.

    `dtype` as safetensors writes it (BF16, F32 ...), byte range [start, end) from the file's start.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class _Entry(Struct, frozen=True):
    dtype: str
    shape: tuple[Size, ...]
    data_offsets: tuple[Size, Size]


_ENTRY = decoder(_Entry)
_METADATA = decoder(dict[str, str] | None)
_ENTRIES = decoder(dict[str, msgspec.Raw])
"""Of a long header no more is made than the names, until an entry is none."""
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Type of a tensor -> bits of one number, as safetensors 0.8 has them."""


def tensors_of(path: Path) -> list[Tensor]:
    """The tensors of a safetensors file in the order of their bytes.

    Raises InputError on a malformed file.
    """
    size = path.stat().st_size
    with opening.open_file(path) as f:
        head = f.read(8)
        length = int.from_bytes(head, "little")
        try:
            return parse_header(
                head + f.read(length if length <= min(HEADER_LIMIT, size) else 0), size, str(path)
            )
        except InputError:
            f.seek(0)
            if other_kind := not_a_model.weights_like(f.read(not_a_model.BEGINNING)):
                raise InputError(
                    f"not a safetensors file: {other_kind[0]}", where=str(path), hint=other_kind[1]
                ) from None
            raise


def parse_header(header: bytes, size: int, where: str) -> list[Tensor]:
    """The tensors that a header (its length included) tells of, in a file of `size` bytes.

    Raises InputError.
    """
    hint = COMPLETE
    try:
        (length,) = struct.unpack("<Q", header[:8])
        if length > min(HEADER_LIMIT, size - 8):
            raise ValueError("the header is longer than the file")
        base = 8 + length
        entries = _ENTRIES.decode(memoryview(header)[8:base])
        if (metadata := entries.pop("__metadata__", None)) is not None:
            _METADATA.decode(metadata)
        tensors = [_tensor(name, text, base) for name, text in entries.items()]
    except (ValueError, struct.error) as e:
        raise InputError(f"not a safetensors file: {e}", where=where, hint=hint) from None
    except RecursionError:
        fact = "not a safetensors file: nested too deep"
        raise InputError(fact, where=where, hint=hint) from None
    tensors.sort(key=lambda t: (t.start, t.end))
    position = base
    for tensor in tensors:
        if tensor.start != position or tensor.end < tensor.start:
            raise InputError(
                f"tensor {tensor.name} does not follow the one before it", where=where, hint=hint
            )
        if fault := _wrong_size(tensor):
            raise InputError(f"tensor {tensor.name} {fault}", where=where, hint=hint)
        position = tensor.end
    if position != size:
        raise InputError(
            f"the header tells of {position} bytes, the file has {size}", where=where, hint=hint
        )
    return tensors


def _wrong_size(tensor: Tensor) -> str:
    """Why a tensor's bytes can't be of its type and shape; empty where they can."""
    if tensor.dtype not in BITS:
        return f"has the type {tensor.dtype[:20]!r}, which safetensors does not know"
    size = tensor.end - tensor.start
    if math.prod(tensor.shape) * BITS[tensor.dtype] != size * 8:
        shape = " x ".join(map(str, tensor.shape[:8])) or "one number"
        return f"({tensor.dtype}, {shape}) does not take the {size} bytes that it has"
    return ""


def _tensor(name: str, text: msgspec.Raw, base: int) -> Tensor:
    """Raises ValueError, also for half a surrogate pair, which nothing can hash."""
    try:
        entry = _ENTRY.decode(text)
    except msgspec.ValidationError as e:
        raise ValueError(f"{name}: {e}") from None
    return Tensor(
        name, entry.dtype, entry.shape, base + entry.data_offsets[0], base + entry.data_offsets[1]
    )


def digests_of(
    path: Path, count: hashing.OnBytes = hashing.ignore_progress
) -> list[tuple[Tensor, str]]:
    """The tensors of a file, each with the digest of its bytes; several are hashed at once."""
    tensors = tensors_of(path)
    return list(
        zip(
            tensors,
            hashing.in_threads(
                lambda t: hashing.of_range(path, t.start, t.end - t.start, count)[0], zip(tensors)
            ),
            strict=True,
        )
    )


def sum_of(facts: Iterable[object]) -> str:
    """The sum modulo 2**128 of one hash a fact.

    It does not depend on order: any sharding of the same tensors adds up to the same.
    """
    return f"{sum(int(hashing.of_json(fact), 16) for fact in facts) % (1 << 128):032x}"


def sum_of_tensors(path: Path, count: hashing.OnBytes = hashing.ignore_progress) -> str:
    """Over (name, dtype, shape, digest of the bytes)."""
    return sum_of([t.name, t.dtype, t.shape, digest] for t, digest in digests_of(path, count))
