"""Where the tensors lie in a safetensors file, and the digest of a model: without torch, from the header's JSON.

Format: https://github.com/huggingface/safetensors#format (8 bytes little-endian header length, JSON header, tensor bytes).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Struct

from olivebuild import digest
from olivebuild.errors import InputError

HEADER_LIMIT = 100 << 20
READ_FILES = (
    "config.json", "generation_config.json", "chat_template*", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "*.model", "*.tiktoken", "*preprocessor_config.json",
)  # fmt: skip
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


Size = Annotated[int, msgspec.Meta(ge=0)]


class Tensor(Struct, frozen=True):
    """One tensor in a file: `dtype` as safetensors writes it (BF16, F32 ...), byte range [start, end) from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class _Entry(Struct, frozen=True):
    dtype: str
    shape: tuple[Size, ...]
    data_offsets: tuple[Size, Size]


def tensors_of(path: Path) -> list[Tensor]:
    """The tensors of a safetensors file in the order of their bytes. Raises InputError on a malformed file."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        head = f.read(8)
        length = int.from_bytes(head, "little")
        return parse_header(head + f.read(length if length <= min(HEADER_LIMIT, size) else 0), size, str(path))


def parse_header(header: bytes, size: int, where: str) -> list[Tensor]:
    """The tensors that a header (its length included) tells of, in a file of `size` bytes. Raises InputError."""
    hint = "is the download complete?"
    try:
        (length,) = struct.unpack("<Q", header[:8])
        if length > min(HEADER_LIMIT, size - 8):
            raise ValueError("the header is longer than the file")
        data = json.loads(header[8 : 8 + length])
        base = 8 + length
        found = [_tensor(name, entry, base) for name, entry in data.items() if name != "__metadata__"]
    except (ValueError, AttributeError, RecursionError, struct.error) as e:
        raise InputError(f"not a safetensors file: {e}", where=where, hint=hint) from None
    found.sort(key=lambda t: (t.start, t.end))
    position = base
    for tensor in found:
        if tensor.start != position or tensor.end < tensor.start:
            raise InputError(f"tensor {tensor.name} does not follow the one before it", where=where, hint=hint)
        position = tensor.end
    if position != size:
        raise InputError(f"the header tells of {position} bytes, the file has {size}", where=where, hint=hint)
    return found


def _tensor(name: str, value: object, base: int) -> Tensor:
    try:
        entry = msgspec.convert(value, _Entry)
    except msgspec.ValidationError as e:
        raise ValueError(f"{name}: {e}") from None
    return Tensor(name, entry.dtype, entry.shape, base + entry.data_offsets[0], base + entry.data_offsets[1])


def digests_of(path: Path, count: digest.Count = digest.nobody) -> list[tuple[Tensor, str]]:
    """The tensors of a file, each with the digest of its bytes; several are hashed at once."""
    found = tensors_of(path)
    return list(zip(found, digest.in_threads(lambda t: digest.of_range(path, t.start, t.end - t.start, count)[0], zip(found)), strict=True))


def sum_of(facts: Iterable[object]) -> str:
    """The sum modulo 2**128 of one hash a fact. It does not depend on order: any sharding of the same tensors adds up to the same."""
    return f"{sum(int(digest.of_json(fact), 16) for fact in facts) % (1 << 128):032x}"


def sum_of_tensors(path: Path, count: digest.Count = digest.nobody) -> str:
    """Over (name, dtype, shape, digest of the bytes)."""
    return sum_of([t.name, t.dtype, t.shape, found] for t, found in digests_of(path, count))


def model_files(folder: Path, *, code: bool = False) -> tuple[list[Path], list[Path]]:
    """(weight files, other files that a loader reads) of a Hugging Face folder; `code`: Python files are read too.

    Raises InputError when there are no safetensors weights or no config.json.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            "not a Hugging Face model folder: config.json is missing",
            where=str(folder),
            hint="name the folder that holds config.json and the weights",
        )
    patterns = (*READ_FILES, "*.py") if code else READ_FILES
    weights = sorted(folder.glob("*.safetensors"))
    others = [p for p in sorted(folder.iterdir()) if p.is_file() and any(fnmatch(p.name, q) for q in patterns)]
    if not weights:
        pickled = [p.name for p in sorted(folder.iterdir()) if any(fnmatch(p.name, q) for q in PICKLES)]
        fact = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
        hint = "olivebuild reads safetensors and GGUF only, since unpickling runs code; convert the weights to safetensors first"
        raise InputError(f"{fact} in the model folder", where=str(folder), hint=hint)
    return weights, others


def model_digest(folder: Path, memo: digest.StatMemo, *, code: bool = False) -> str:
    """The digest of what a loader reads: tensors, however sharded, and the non-weight files. README, .git and the like don't count."""
    weights, others = model_files(folder, code=code)
    return digest_of_sums([memo.digest(w, sum_of_tensors, "tensors") for w in weights], [(p.name, memo.digest(p)) for p in others])


def digest_of_sums(sums: Iterable[str], others: Iterable[tuple[str, str]]) -> str:
    """`others` are (name, digest) of the non-weight files, sorted by name."""
    total = sum(int(s, 16) for s in sums) % (1 << 128)
    return digest.of_json(["model", f"{total:032x}", [list(other) for other in others]])
