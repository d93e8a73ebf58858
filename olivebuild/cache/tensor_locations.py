"""Locations of the tensors of models that are referenced in their own folders.

What is made from such a model need not copy them.

A file for each model and folder, in the cache: places/<model digest>-<folder>.json. It holds while
the weight files' stats are what they were.
"""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import Struct

from olivebuild.core import hashing
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import Stat, stat_of, wait_for_tick, write_atomically
from olivebuild.formats import safetensors, weight_files


class ByteRange(Struct, frozen=True):
    """`size` bytes of a file, from `offset`; `lent` when the file is a model's own."""

    path: Path
    offset: int
    size: int
    lent: bool = False


Ranges = list[tuple[Path, str, int, int]]
"""(file, digest, offset, size) of each tensor."""


def lenders(root: Path, model: str) -> dict[str, ByteRange]:
    """Return digest of a tensor's bytes -> their location in any folder with this model.

    Empty when there is no such folder, or it has changed.
    """
    ranges_by_digest: dict[str, ByteRange] = {}
    for file in sorted((root / "places").glob(f"{model}-*.json")):
        ranges_by_digest |= {
            name: ByteRange(path, start, size, lent=True) for path, name, start, size in _load(file)
        }
    return ranges_by_digest


def of_folder(root: Path, model: str, folder: Path) -> Ranges:
    """Return where the tensors of the model in `folder` lie.

    Its weights are hashed if that is not known.
    """
    # By the real path: the same files are reached through links, too.
    where = folder.resolve()
    file = root / "places" / f"{model}-{hashing.of_bytes(str(where))[:8]}.json"
    return _load(file) or _note(file, where)


def size_of(file: Path) -> int:
    """Return how many bytes `is_right` reads."""
    return sum(size for _, _, _, size in _load(file))


def is_right(file: Path, count: hashing.OnBytes) -> bool:
    """Return whether the bytes still are what a file of places says, by the stats.

    True where nobody would read them.
    """
    try:
        return all(
            hashing.of_range(path, start, size, count)[0] == tensor
            for path, tensor, start, size in _load(file)
        )
    except OSError:
        return False


def holds(file: Path) -> bool:
    """Return whether a file of places still says where tensors lie."""
    return bool(_load(file))


def _load(file: Path) -> Ranges:
    try:
        data = json.loads(opening.read(file))
        loaded: Ranges = []
        for name, stat, ranges in data["files"]:
            path = Path(data["folder"], name)
            if list(stat_of(path)) != stat:
                return []
            loaded += [(path, str(tensor), int(start), int(size)) for tensor, start, size in ranges]
        return loaded
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []


def _note(file: Path, folder: Path) -> Ranges:
    files: list[tuple[str, Stat, list[list[object]]]] = []
    for name in weight_files.weight_files(folder).names:
        path = folder / name
        stat = stat_of(path)
        files.append(
            (
                name,
                stat,
                [[digest, t.start, t.end - t.start] for t, digest in safetensors.digests_of(path)],
            )
        )
    # A file changed in this very tick may change again without a visible difference: wait until it
    # can't.
    wait_for_tick(file.parent, max(max(f[1][3:]) for f in files))
    write_atomically(file, hashing.canonical_json({"folder": str(folder), "files": files}).encode())
    return _load(file)
