"""Where the tensors of a model lie that is referenced in its own folder: so that what is made from it need not copy them.

A file a model, in the cache: places/<model digest>.json. It holds while the weight files' stats are what they were.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from olivebuild import digest, tensors


@dataclass(frozen=True)
class Place:
    """`size` bytes of a file, from `offset`; `lent` when the file is a model's own."""

    path: Path
    offset: int
    size: int
    lent: bool = False


def load(root: Path, model: str) -> dict[str, Place]:
    """digest of a tensor's bytes -> where they lie; empty when nothing is known or a file has changed since."""
    try:
        data = json.loads(_file(root, model).read_text("utf-8"))
        found: dict[str, Place] = {}
        for name, stat, ranges in data["files"]:
            path = Path(data["folder"], name)
            if list(digest.stat_of(path)) != stat:
                return {}
            for tensor, start, size in ranges:
                found[str(tensor)] = Place(path, int(start), int(size), lent=True)
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def note(root: Path, model: str, folder: Path) -> dict[str, Place]:
    """Hash the weights in `folder` and remember where each tensor lies."""
    files: list[tuple[str, digest.Stat, list[list[object]]]] = []
    for path in sorted(folder.glob("*.safetensors")):
        stat = digest.stat_of(path)
        ranges = [[found, t.start, t.end - t.start] for t, found in tensors.digests_of(path)]
        files.append((path.name, stat, ranges))
    # A file changed in this very tick may change again without a visible difference: wait until it can't.
    digest.wait_for_tick(root / "places", max(max(f[1][3:]) for f in files))
    data = digest.canonical_json({"folder": str(folder.absolute()), "files": files})
    digest.write_atomically(_file(root, model), data.encode())
    return load(root, model)


def _file(root: Path, model: str) -> Path:
    return root / "places" / f"{model}.json"
