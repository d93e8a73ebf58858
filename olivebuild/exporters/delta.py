"""A delta from one export to another: what is the same is copied, what changed is compressed.

    delta.json    old name -> SHA-256, and the new files with the parts that each is made of
    delta.bin     zlib streams of what is new
    apply.py      applies it, with Python alone

A part is [kind, old name, offset, size, start, length]: `copy` takes bytes of an old file, `new`
decompresses `length` bytes at `start`, `xor` combines both. A tensor that training moved a little
differs from the old one in few bits once it is rounded to int4, so that their XOR compresses well.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from msgspec import Struct

from olivebuild.core.errors import InputError
from olivebuild.core.streams import json_text
from olivebuild.exporters import standalone
from olivebuild.exporters.manifest import NAME, ExportedFile, ExportManifest, sha256_of

PIECE = 8 << 20
"""Most bytes of a part, which is held in memory."""
Part = tuple[str, str, int, int, int, int]


class DeltaSize(Struct, frozen=True, kw_only=True):
    """Bytes of a delta, and of the export that it leads to; tensors or files that it sends anew."""

    delta: int
    whole: int
    changed: int


class Old:
    """The export that a delta begins with: its manifest, and its folder if it is here."""

    def __init__(self, manifest: ExportManifest, manifest_text: bytes, folder: Path | None) -> None:
        self.files = {file.name: file for file in manifest.files}
        self.digests = {file.name: file.sha256 for file in manifest.files}
        self._folder = folder
        self._places: dict[tuple[str, int], tuple[str, int]] = {}
        for file in manifest.files:
            for piece, offset in _offsets(file):
                self._places.setdefault(piece, (file.name, offset))
        self.digests[NAME] = hashlib.sha256(manifest_text).hexdigest()

    def place_of(self, piece: tuple[str, int]) -> tuple[str, int] | None:
        """Return where the same piece lies: a file and an offset."""
        return self._places.get(piece)

    def beside(self, name: str, number: int, size: int) -> tuple[str, int] | None:
        """Return where the piece lies that a changed one has taken the place of, if it is here."""
        file = self.files.get(name)
        if self._folder is None or file is None:
            return None
        pieces = list(_offsets(file))
        if number >= len(pieces) or pieces[number][0][1] != size:
            return None
        return name, pieces[number][1]

    def read(self, place: tuple[str, int], size: int) -> bytes:
        assert self._folder
        with open(self._folder / place[0], "rb") as f:
            f.seek(place[1])
            return f.read(size)


def check_folder(manifest: ExportManifest, folder: Path) -> None:
    """Raise InputError for a folder that is not what its manifest says."""
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file() or sha256_of(path) != file.sha256:
            raise InputError(
                f"{file.name} is not as it was exported",
                where=str(folder),
                hint=f"name its {NAME} alone: the delta will be larger, and right",
            )


def write(old: Old, new: ExportManifest, folder: Path, out: Path) -> DeltaSize:
    """Write the delta to the export in `folder` into `out`, a folder that is there."""
    manifest = folder / NAME
    whole = [*new.files, _manifest_file(manifest)]
    changed = 0
    with open(out / "delta.bin", "wb") as data:
        files = []
        for file in whole:
            parts = list(_parts(old, file, folder / file.name, data))
            changed += sum(part[0] != "copy" for part in parts)
            files.append(
                {
                    "name": file.name,
                    "sha256": file.sha256,
                    "executable": file.executable,
                    "parts": _joined(parts),
                }
            )
    text = json_text({"format": 1, "old": old.digests, "files": files}, indent=None) + "\n"
    (out / "delta.json").write_text(text, "utf-8")
    shutil.copyfile(standalone.__file__, out / "apply.py")
    size = sum(path.stat().st_size for path in out.iterdir())
    return DeltaSize(delta=size, whole=sum(file.size for file in whole), changed=changed)


def _manifest_file(path: Path) -> ExportedFile:
    return ExportedFile(name=NAME, size=path.stat().st_size, sha256=sha256_of(path))


def _offsets(file: ExportedFile) -> Iterator[tuple[tuple[str, int], int]]:
    offset = 0
    for piece in file.pieces():
        yield piece, offset
        offset += piece[1]


def _parts(old: Old, file: ExportedFile, path: Path, data: IO[bytes]) -> Iterator[Part]:
    with open(path, "rb") as f:
        for number, (piece, offset) in enumerate(_offsets(file)):
            size = piece[1]
            if place := old.place_of(piece):
                yield ("copy", *place, size, 0, 0)
                continue
            beside = old.beside(file.name, number, size)
            for start in range(0, size, PIECE):
                length = min(PIECE, size - start)
                f.seek(offset + start)
                content = f.read(length)
                held = (beside[0], beside[1] + start) if beside else None
                yield _new(content, held, old, data)


def _new(content: bytes, held: tuple[str, int] | None, old: Old, data: IO[bytes]) -> Part:
    """Write a piece that is new, by itself or as its difference from the old one."""
    best, kind, place = zlib.compress(content, 6), "new", ("", 0)
    if held and content:
        before = int.from_bytes(old.read(held, len(content)), "big")
        mixed = (before ^ int.from_bytes(content, "big")).to_bytes(len(content), "big")
        if len(packed := zlib.compress(mixed, 6)) < len(best):
            best, kind, place = packed, "xor", held
    start = data.tell()
    data.write(best)
    return (kind, *place, len(content), start, len(best))


def _follows(last: Part, part: Part) -> bool:
    """Return whether both copy what lies one behind the other, in a piece together."""
    is_copied = last[0] == part[0] == "copy" and last[1] == part[1]
    return is_copied and last[2] + last[3] == part[2] and last[3] + part[3] <= PIECE


def _joined(parts: list[Part]) -> list[Part]:
    """Return parts with copies joined that lie one behind the other, and cut into pieces."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last and _follows(last, part):
            joined[-1] = ("copy", last[1], last[2], last[3] + part[3], 0, 0)
            continue
        if part[0] == "copy":
            joined += [
                ("copy", part[1], part[2] + at, min(PIECE, part[3] - at), 0, 0)
                for at in range(0, part[3], PIECE)
            ]
        else:
            joined.append(part)
    return joined
