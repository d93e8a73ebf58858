"""Pins of objects, as text for olivebuild.lock.

One object:  `size 1048576, etag 0x8DC..., version 2026-...`
Several:     `12 files, 1048576 bytes, listing SHA256`, the digest of names, sizes and entity tags.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from olivebuild.ml.models.remotes.objects.listing import File


def text_of(files: Sequence[File], path: str) -> str:
    """Return the pin of what `path` stands for now."""
    if [file.path for file in files] == [path]:
        size, etag, version = files[0][2:]
        return f"size {size}, etag {etag}" + (f", version {version}" if version else "")
    listing = json.dumps([[f.name, f.size, f.etag] for f in files], ensure_ascii=True)
    digest = hashlib.sha256(listing.encode()).hexdigest()
    return f"{len(files)} files, {sum(f.size for f in files)} bytes, listing {digest}"


def file_of(pin: str, path: str) -> File:
    """Return the object that the pin of one stands for."""
    match = re.fullmatch(r"size (\d+), etag (\S*)(?:, version (\S+))?", pin)
    assert match
    return File(path, path.rpartition("/")[2], int(match[1]), match[2], match[3] or "")


def version_of(pin: str) -> str:
    """Return the version in the pin of one object, "" where there is none."""
    match = re.fullmatch(r"size \d+, etag \S*, version (\S+)", pin)
    return match[1] if match else ""
