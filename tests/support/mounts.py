"""File systems that are full or read-only: small ones in memory, mounted for a test.

Only root may mount, so others skip these tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.require import require


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def memory_disk(place: Path, size: int, inodes: int = 0) -> Iterator[None]:
    """A file system of `size` bytes at `place`, with room for so many files; 0: for all."""
    place.mkdir(parents=True, exist_ok=True)
    require("mounts", is_root(), "only root can mount a file system")
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    failed = f"no file system can be mounted here: {mounting.stderr.strip()}"
    require("mounts", not mounting.returncode, failed)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def exfat_disk(place: Path, size: int) -> Iterator[None]:
    """A file system without links and modes, whose names differ in more than case; skipped where it
    can't be had (exfat-fuse and exfatprogs).
    """
    place.mkdir(parents=True, exist_ok=True)
    tools = ("mkfs.exfat", "mount.exfat-fuse", "losetup")
    require("exfat", all(map(shutil.which, tools)), "no tools for exFAT here")
    image = place.parent / f"{place.name}.img"
    image.touch()
    os.truncate(image, size)
    subprocess.run(["mkfs.exfat", str(image)], check=True, capture_output=True)
    loop = subprocess.run(
        ["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False
    )
    failed = f"no loop device can be had here: {loop.stderr.strip()}"
    require("exfat", not loop.returncode, failed)
    device = loop.stdout.strip()
    try:
        mounting = subprocess.run(
            ["mount.exfat-fuse", device, str(place)], capture_output=True, text=True, check=False
        )
        failed = f"no file system can be mounted here: {mounting.stderr.strip()}"
        require("exfat", not mounting.returncode, failed)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=False)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def fill(place: Path, left: int) -> Path:
    """A file that leaves `left` bytes free."""
    ballast = place / "ballast"
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    ballast.write_bytes(b"\0" * max(0, free - left))
    return ballast
