"""The manifest of an export: its files, and the pieces that each consists of.

It lies in the export itself, so that a later delta needs neither the store nor the history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, to_builtins

from olivebuild.core.errors import InputError
from olivebuild.core.fs.files import files_below
from olivebuild.core.fs.small_files import read_bytes
from olivebuild.core.streams import json_text
from olivebuild.core.values.strict_json import decode

NAME = "olivebuild-export.json"
Size = Annotated[int, Meta(ge=0)]
Runs = tuple[tuple[str, int], ...]
"""The (digest, size) of the pieces of a file, in order."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class ExportedFile(Struct, frozen=True, kw_only=True):
    """A file: its name (relative, POSIX), size in bytes, SHA-256 and pieces.

    `runs` are (digest, size) of the tensors or segments that it consists of, in order; empty for a
    file that is one piece.
    """

    name: str
    size: Size
    sha256: Sha256
    executable: bool = False
    runs: tuple[tuple[str, Size], ...] = ()

    def pieces(self) -> tuple[tuple[str, int], ...]:
        return self.runs or ((self.sha256, self.size),)


class ExportManifest(Struct, frozen=True, kw_only=True):
    """An export: the target, its digest, and all files but the manifest."""

    format: int = 1
    target: str
    kind: str
    digest: str
    version: str
    """Of olivebuild."""
    files: tuple[ExportedFile, ...]

    def to_text(self) -> str:
        return json_text(to_builtins(self), indent=1) + "\n"


def read(place: Path) -> ExportManifest:
    """Return the manifest of an export: of its folder, or the file itself.

    Raises InputError for anything else.
    """
    file = place / NAME if place.is_dir() else place
    try:
        manifest = decode(read_bytes(file), ExportManifest)
    except (OSError, ValueError) as e:
        hint = f"name the folder of an earlier `olivebuild export`, or its {NAME}"
        raise InputError(f"this is no export: {e}", where=str(place), hint=hint) from None
    if manifest.format != 1:
        fact = f"the manifest has format {manifest.format}, and this version reads 1"
        raise InputError(fact, where=str(file), hint="a newer olivebuild wrote it")
    return manifest


def sha256_of(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def files_of(
    folder: Path, runs: Mapping[str, tuple[tuple[str, int], ...]]
) -> Iterable[ExportedFile]:
    """Yield the files of a folder but its manifest; `runs`: name -> pieces where they are told."""
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        if name != NAME:
            stat = path.stat()
            yield ExportedFile(
                name=name,
                size=stat.st_size,
                sha256=sha256_of(path),
                executable=bool(stat.st_mode & 0o100),
                runs=runs.get(name, ()),
            )
