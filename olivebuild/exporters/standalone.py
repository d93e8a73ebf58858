"""Apply a delta to an exported model: `python apply.py MODEL_FOLDER [DELTA_FOLDER]`.

Needs Python alone. Whenever it is interrupted the folder is the old version or the new one, whole;
without Linux's renameat2 the next run finishes it. Other files in the folder stay.
"""

import ctypes
import hashlib
import json
import os
import shutil
import sys
import zlib
from pathlib import Path
from typing import IO, Any, Dict, List  # noqa: UP035


def holds(folder: Path, digests: Dict[str, str]) -> bool:  # noqa: UP006
    """Return whether the files of these names have these SHA-256."""
    for name, wanted in digests.items():
        digest = hashlib.sha256()
        if not (folder / name).is_file():
            return False
        with open(folder / name, "rb") as f:
            while piece := f.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != wanted:
            return False
    return True


def content(part: List[Any], old: Path, data: IO[bytes]) -> bytes:  # noqa: UP006
    """Return a part of a file, at most 8 MiB: `new`, `copy` of an old one, or `xor` of both."""
    kind, name, offset, size, start, length = part
    if not 0 <= size <= 8 << 20:
        raise ValueError(f"a part has {size} bytes")
    data.seek(start)
    new = zlib.decompressobj().decompress(data.read(length), max(size, 1)) if length else b""
    if kind == "new":
        return new
    with open(old / name, "rb") as f:
        f.seek(offset)
        held = f.read(size)
    if kind == "copy":
        return held
    return (int.from_bytes(held, "big") ^ int.from_bytes(new, "big")).to_bytes(size, "big")


def swap(new: Path, folder: Path, aside: Path) -> None:
    """Put a folder where another stands."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "renameat2"):
        if libc.renameat2(-100, os.fsencode(new), -100, os.fsencode(folder), 2) == 0:
            return shutil.rmtree(new)
    os.rename(folder, aside)
    os.rename(new, folder)
    return shutil.rmtree(aside)


def write(plan: Dict[str, Any], folder: Path, delta: Path, new: Path) -> None:  # noqa: UP006
    """Make the new version beside the old one."""
    shutil.copytree(folder, new, symlinks=True)
    for name in plan["old"]:
        (new / name).unlink()
    with open(delta / "delta.bin", "rb") as data:
        for file in plan["files"]:
            (new / file["name"]).parent.mkdir(parents=True, exist_ok=True)
            with open(new / file["name"], "xb") as f:
                f.writelines(content(part, folder, data) for part in file["parts"])
                os.fsync(f.fileno())
            os.chmod(new / file["name"], 0o755 if file["executable"] else 0o644)
    if not holds(new, {file["name"]: file["sha256"] for file in plan["files"]}):
        raise ValueError("the delta is damaged")


def apply(folder: Path, delta: Path) -> bool:
    """Return whether there was something to do. Raises ValueError and OSError."""
    folder = folder.resolve()
    new, aside = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    if aside.is_dir() and not folder.is_dir():
        os.rename(aside, folder)
    try:
        plan = json.loads((delta / "delta.json").read_text("utf-8"))
        after = {file["name"]: file["sha256"] for file in plan["files"]}
        used = {part[1] for file in plan["files"] for part in file["parts"] if part[0] != "new"}
        for name in {*plan["old"], *after, *used}:
            linked = any((folder / up).is_symlink() for up in Path(name).parents)
            if linked or {"", ".", ".."} & {*name.split("/")} or set(name) & set("\\:\0"):
                raise ValueError(f"{name!r} leaves the folder")
        gone = {*plan["old"]} - {*after}
        if holds(folder, after) and not any((folder / n).exists() for n in gone):
            return False
        if not holds(folder, plan["old"]):
            raise ValueError(f"{folder} is not the version that the delta begins with")
        for left in (new, aside):
            shutil.rmtree(left, ignore_errors=True)
        write(plan, folder, delta, new)
    except BaseException as e:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(e, (ValueError, OSError)) or not isinstance(e, Exception):
            raise
        raise ValueError(f"it is damaged, or none: {type(e).__name__}: {e}") from None
    swap(new, folder, aside)
    return True


if __name__ == "__main__":
    here = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent
    print("applied" if apply(Path(sys.argv[1]), here) else "there already")
