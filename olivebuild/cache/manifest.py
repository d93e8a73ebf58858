"""Manifests of folders: their files, and the blobs that each is made of.

Also the origin of blobs that are not stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated

from msgspec import Meta, Struct, to_builtins

from olivebuild.core import hashing
from olivebuild.core.fs import portable_names
from olivebuild.core.hashing import OnBytes, ignore_progress
from olivebuild.core.values.strict_json import decode

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]


class Entry(Struct, frozen=True):
    """One file of a folder, and the blobs that make it.

    Its name (relative, POSIX), whether it is executable, its size and digest.

    A file is one blob, or, if it is large or holds tensors, a run of (blob, size): equal tensors of
    different models are stored once. The digest of such a file is that of its run, so that it can
    be had without reading what is known already; where no tensors cut it otherwise, the run is the
    file's segments, and its digest that of `digest.of_file`.
    """

    name: str
    executable: bool
    size: Annotated[int, Meta(ge=0)]
    digest: Digest
    blobs: tuple[tuple[Digest, Annotated[int, Meta(ge=0)]], ...] = ()

    @staticmethod
    def of_runs(name: str, runs: Iterable[tuple[str, int]], *, executable: bool = False) -> Entry:
        """Return the entry of a file that consists of these (blob, size)."""
        blobs = tuple(runs)
        size = sum(n for _, n in blobs)
        if len(blobs) == 1:
            return Entry(name, executable, size, blobs[0][0])
        return Entry(name, executable, size, hashing.of_json(blobs), blobs)

    def runs(self) -> tuple[tuple[str, int], ...]:
        return self.blobs or ((self.digest, self.size),)

    def digest_of(self, path: Path, count: OnBytes = ignore_progress) -> str:
        """Return the digest of a file, taken as this entry's is.

        It equals the entry's if and only if the file has this entry's content. Raises OSError.
        """
        return hashing.of_runs(path, self._sizes(), count)

    @property
    def digest_kind(self) -> str:
        """A name for the way in which the digest is taken; StatMemo keeps kinds apart."""
        sizes = self._sizes()
        return "bytes" if sizes == hashing.segments(self.size) else f"runs {hashing.of_json(sizes)}"

    def _sizes(self) -> list[int]:
        return [size for _, size in self.runs()]


class Computed(Struct, frozen=True):
    """A tensor that is not stored, since it is quickly computed.

    It comes from the tensor of the digest `base` and an adapter.

    `chunks` are the digests of its consecutive pieces of `rows` rows, so that each can be checked
    when it is computed.
    """

    name: str
    base: Digest
    digest: Digest
    rows: Annotated[int, Meta(gt=0)]
    chunks: tuple[Digest, ...]


class Merge(Struct, frozen=True):
    """The tensors that merging an adapter (the blob of its folder's manifest) gives."""

    adapter: Digest
    reproducible: bool
    tensors: tuple[Computed, ...]


class Manifest(Struct, frozen=True):
    """A folder.

    `base` is the model digest of the folder that lends the tensors which are not in the store; see
    cache/tensor_locations.py.

    `merges` tell, in order, how to compute the tensors that are neither stored nor lent.
    """

    files: tuple[Entry, ...]
    base: Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?$")] = ""
    merges: tuple[Merge, ...] = ()

    @property
    def digest(self) -> str:
        return hashing.of_json([[e.name, e.executable, e.size, e.digest] for e in self.files])

    @property
    def size(self) -> int:
        return sum(e.size for e in self.files)

    def to_json(self) -> str:
        return hashing.canonical_json(to_builtins(self))

    @staticmethod
    def from_json(text: bytes) -> Manifest:
        """Decode a manifest.

        Raises ValueError for any other text, and for names that leave the folder.
        """
        manifest = decode(text, Manifest)
        folders: set[PurePosixPath] = set()
        for entry in manifest.files:
            folders.update(PurePosixPath(entry.name).parents)
        if len({entry.name for entry in manifest.files}) < len(manifest.files):
            raise ValueError("two files of one name")
        for entry in manifest.files:
            _check_name(entry.name, folders)
            if entry.blobs and entry != Entry.of_runs(
                entry.name, entry.blobs, executable=entry.executable
            ):
                raise ValueError(f"{entry.name!r} is not what its blobs add up to")
        return manifest


def _check_name(name: str, folders: set[PurePosixPath]) -> None:
    """Raise ValueError for a name that leaves its folder, or that no file beside `folders` has."""
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts
    if leaves or set("\\\0") & set(name) or not path.parts:
        raise ValueError(f"a name that leaves its folder: {name!r}")
    longest = max(len(part.encode("utf-8", "surrogatepass")) for part in path.parts)
    if str(path) != name or path in folders or longest > 255:
        raise ValueError(f"a name that no file can have: {name[:300]!r}")
    if os.name == "nt" and (fault := portable_names.fault(name)):
        raise ValueError(f"a name that this system has no room for: {fault}")
