"""Apply a delta to an exported model: `python apply.py MODEL_FOLDER [DELTA_FOLDER]`.

Needs Python 3.8 alone. Whenever it is interrupted the folder is the old version or the new one,
whole; without Linux's renameat2 the next run finishes it. Other files in the folder stay.
Of two that run at once one waits for the other, where the system can lock a folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import shutil
import sys
import zlib
from contextlib import suppress
from pathlib import Path


def view(file: Path) -> mmap.mmap | bytes:
    """Return the bytes of a file, mapped into memory."""
    with open(file, "rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if os.stat(file).st_size else b""


def holds(folder: Path, digests: dict[str, str]) -> bool:
    """Return whether the files of these names have these SHA-256."""
    files = [(folder / name, wanted) for name, wanted in digests.items()]
    return all(f.is_file() and hashlib.sha256(view(f)).hexdigest() == wanted for f, wanted in files)


def content(part: tuple[str, str, int, int, int, int], old: Path, data: mmap.mmap | bytes) -> bytes:
    """Return a part of a file, at most 8 MiB: bytes of an old file XOR those of the delta."""
    _, name, offset, size, start, length = part
    size = min(size, 8 << 20)
    held = view(old / name)[offset : offset + size] if name else b""
    new = zlib.decompressobj().decompress(data[start : start + length], size + 1)
    mixed = int.from_bytes(held, "big") ^ int.from_bytes(new, "big")
    return mixed.to_bytes(size, "big") if length else held


def apply(folder: Path, delta: Path) -> bool:
    """Return whether there was something to do. Raises an error for what is no delta of it."""
    folder = folder.resolve()
    new, aside = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    if aside.is_dir() and not folder.is_dir():
        os.rename(aside, folder)
    plan = json.loads((delta / "delta.json").read_text("utf-8"))
    after = {file["name"]: file["sha256"] for file in plan["files"]}
    used = {part[1] for file in plan["files"] for part in file["parts"] if part[0] != "new"}
    for name in {*plan["old"], *after, *used}:
        is_linked = any((folder / up).is_symlink() for up in Path(name).parents)
        if is_linked or {"", ".", ".."} & {*name.split("/")} or set(name) & set("\\:\0"):
            raise ValueError(f"{name!r} leaves the folder")
    if holds(folder, after) and not any((folder / n).exists() for n in {*plan["old"]} - {*after}):
        return False
    if not holds(folder, plan["old"]):
        raise ValueError(f"{folder} is not the version that the delta begins with")
    for left in (new, aside):
        shutil.rmtree(left, ignore_errors=True)
    try:
        own = {str(folder / name) for name in plan["old"]}
        others = lambda at, names: [n for n in names if os.path.join(at, n) in own]  # noqa: E731
        shutil.copytree(folder, new, symlinks=True, ignore=others)
        for file in plan["files"]:
            (new / file["name"]).parent.mkdir(parents=True, exist_ok=True)
            with open(new / file["name"], "xb") as f:
                data = view(delta / "delta.bin")
                f.writelines(content(part, folder, data) for part in file["parts"])
                os.fsync(f.fileno())
            os.chmod(new / file["name"], 0o755 if file["executable"] else 0o644)
        if not holds(new, after):
            raise ValueError("the delta is damaged")
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        exchange = getattr(libc, "renameat2", None)
        ends = (-100, os.fsencode(new), -100, os.fsencode(folder), 2)
        if not exchange or exchange(*ends):
            os.rename(folder, aside)
            os.rename(new, folder)
            shutil.rmtree(aside)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return True


if __name__ == "__main__":
    here = Path([*sys.argv, os.path.dirname(__file__)][2])
    with suppress(ImportError, OSError):
        import fcntl  # Not on Windows; what is held here is so until the program ends.

        fcntl.flock(os.open(Path(sys.argv[1]).resolve().parent, os.O_RDONLY), fcntl.LOCK_EX)
    print("applied" if apply(Path(sys.argv[1]), here) else "there already")
