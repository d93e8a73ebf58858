"""The files of an export as they are when its push begins, which the push is held against."""

from __future__ import annotations

import hashlib
from pathlib import Path

from msgspec import Struct

from olivebuild.core.errors import InputError, StoreError
from olivebuild.core.fs.files import files_below
from olivebuild.exporters import manifest

CHUNK = 1 << 20


class Content(Struct, frozen=True, kw_only=True):
    """A file: its size in bytes, its SHA-256, and its name in Git."""

    size: int
    sha256: str
    blob: str


def contents_of(folder: Path) -> dict[str, Content]:
    """Return an export's files by name. Raises InputError where they are not its manifest's."""
    contents = {
        path.relative_to(folder).as_posix(): _content(path) for path in sorted(files_below(folder))
    }
    listed = {file.name: file.sha256 for file in manifest.read(folder).files}
    told = {name: file.sha256 for name, file in contents.items() if name != manifest.NAME}
    if manifest.NAME not in contents or told != listed:
        fact = "the export is not what its manifest says"
        raise InputError(fact, where=str(folder), hint="was it changed meanwhile? export it again")
    return contents


def check_there(folder: Path, contents: dict[str, Content]) -> None:
    """Raise StoreError for a file that has gone since."""
    for name in contents:
        if not (folder / name).is_file():
            fact = f"{name} was deleted while it was pushed"
            raise StoreError(fact, where=str(folder), hint="push again")


def _content(path: Path) -> Content:
    size = path.stat().st_size
    whole = hashlib.sha256()
    # As Git names a file: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            whole.update(chunk)
            blob.update(chunk)
    return Content(size=size, sha256=whole.hexdigest(), blob=blob.hexdigest())
