"""Archives of folders: equal folders give equal bytes, whenever and wherever they are packed."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from olivebuild.core.fs.files import files_below

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a ZIP file can tell."""


def suffix_of(place: Path) -> str:
    """Return the suffix that makes a destination an archive, however written; "" for a folder."""
    return next((suffix for suffix in SUFFIXES if place.name.lower().endswith(suffix)), "")


def pack(folder: Path, out: Path, *, suffix: str, name: str) -> None:
    """Write a folder's files into an archive, below a folder of that name."""
    files = [
        (path, f"{name}/{path.relative_to(folder).as_posix()}")
        for path in sorted(files_below(folder))
    ]
    if suffix == ".zip":
        with zipfile.ZipFile(out, "w") as archive:
            for path, inside in files:
                about = zipfile.ZipInfo(inside, EPOCH)
                about.external_attr = (0o100000 | _mode(path)) << 16
                with open(path, "rb") as source, archive.open(about, "w", force_zip64=True) as file:
                    while piece := source.read(1 << 20):
                        file.write(piece)
        return
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(open(out, "wb"))
        if suffix != ".tar":
            # Without a name and a time in its header.
            zipped = gzip.GzipFile("", "wb", 1, stream, mtime=0)
            stream = cast("IO[bytes]", stack.enter_context(zipped))
        tar = stack.enter_context(tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT))
        for path, inside in files:
            entry = tarfile.TarInfo(inside)
            entry.size, entry.mode = path.stat().st_size, _mode(path)
            with open(path, "rb") as source:
                tar.addfile(entry, source)


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & 0o100 else 0o644
