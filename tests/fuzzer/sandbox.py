"""A folder with a workspace, a cache, a home and neighbours: what is in it is known, compared and
put back.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

OURS = (
    "work/build",
    "work/.olivebuild",
    "work/olivebuild.lock",
    "cache",
    "home/.local/state/olivebuild",
    "home/.cache/Microsoft",
)
"""What a command may change; all else is a canary.

The last is onnxruntime's, which makes it when it is imported.
"""
SECRET = b"canary-3f1c-of-the-neighbour"


class Entry(NamedTuple):
    """What tells that a path was changed: of a folder no more than that it is one, since its files
    are looked at themselves.
    """

    mode: int
    links: int
    inode: int
    size: int
    mtime: int
    ctime: int


class Kept(NamedTuple):
    """What is needed to make a path again."""

    mode: int
    mtime: int
    content: bytes
    """Of a file its bytes, of a link where it leads to."""


def entry(path: str) -> Entry:
    about = os.lstat(path)
    if stat.S_ISDIR(about.st_mode):
        return Entry(about.st_mode, 0, about.st_ino, 0, 0, 0)
    return Entry(
        about.st_mode,
        about.st_nlink,
        about.st_ino,
        about.st_size,
        about.st_mtime_ns,
        about.st_ctime_ns,
    )


def look(root: str) -> dict[str, Entry]:
    """Everything below `root`; folders before what is in them, and no link is followed."""
    found: dict[str, Entry] = {}
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for one in entries:
                name = os.path.join(folder, one.name)
                found[name] = entry(one.path)
                if stat.S_ISDIR(found[name].mode):
                    todo.append(name)
    return found


def is_ours(name: str) -> bool:
    return any(name == own or name.startswith(own + "/") for own in OURS)


class Sandbox:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.work, self.cache, self.home = root / "work", root / "cache", root / "home"
        self.pristine: dict[str, Entry] = {}
        self.kept: dict[str, Kept] = {}

    def environment(self) -> dict[str, str]:
        """All that a command in it gets."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.root / "tmp"),
            "OLIVEBUILD_CACHE": str(self.cache),
            "HF_HOME": str(self.root / "hub"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.work / "wheels"),
            "PIP_CONFIG_FILE": os.devnull,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def keep(self) -> None:
        """Take all that lies here now for how it should be."""
        self.pristine = look(str(self.root))
        for name, one in self.pristine.items():
            path = self.root / name
            content = b""
            if stat.S_ISREG(one.mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(one.mode):
                content = os.fsencode(os.readlink(path))
            self.kept[name] = Kept(one.mode, one.mtime, content)

    def put_back(self) -> None:
        """Make all as it was, whatever lies here now."""
        now = look(str(self.root))
        wrong = {name for name, one in now.items() if self.pristine.get(name) != one}
        for name in sorted(wrong, reverse=True):
            path = self.root / name
            if stat.S_ISDIR(now[name].mode):
                kept = self.kept.get(name)
                if kept and stat.S_ISDIR(kept.mode):
                    path.chmod(stat.S_IMODE(kept.mode))
                else:
                    shutil.rmtree(path)
            else:
                with suppress(FileNotFoundError):
                    path.unlink()
        for name in self.pristine:
            if name in wrong or name not in now:
                self._make(name)

    def _make(self, name: str) -> None:
        path, kept = self.root / name, self.kept[name]
        if stat.S_ISDIR(kept.mode):
            path.mkdir(exist_ok=True)
        elif stat.S_ISLNK(kept.mode):
            path.symlink_to(os.fsdecode(kept.content))
        else:
            path.write_bytes(kept.content)
            os.utime(path, ns=(kept.mtime, kept.mtime))
        if not stat.S_ISLNK(kept.mode):
            path.chmod(stat.S_IMODE(kept.mode))
        self.pristine[name] = entry(str(path))

    def changed(self, before: dict[str, Entry]) -> list[str]:
        """What a command has changed that is not its own."""
        now = look(str(self.root))
        return sorted(
            name
            for name in {*before, *now}
            if before.get(name) != now.get(name) and not is_ours(name)
        )

    def published(self, before: dict[str, Entry]) -> list[str]:
        """The files of ours that are new and hold what the neighbour keeps to itself."""
        found = []
        for name, one in look(str(self.root)).items():
            if (
                stat.S_ISREG(one.mode)
                and before.get(name) != one
                and is_ours(name)
                and SECRET in (self.root / name).read_bytes()
            ):
                found.append(name)
        return found
