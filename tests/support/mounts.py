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

import pytest


@contextmanager
def memory_disk(place: Path, size: int, inodes: int = 0) -> Iterator[None]:
    """A file system of `size` bytes at `place`, with room for so many files; 0: for all."""
    place.mkdir(parents=True, exist_ok=True)
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
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
    if not all(map(shutil.which, ("mkfs.exfat", "mount.exfat-fuse", "losetup"))):
        pytest.skip("no tools for exFAT here")
    image = place.parent / f"{place.name}.img"
    image.touch()
    os.truncate(image, size)
    subprocess.run(["mkfs.exfat", str(image)], check=True, capture_output=True)
    made = subprocess.run(
        ["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device can be had here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        if (
            done := subprocess.run(
                ["mount.exfat-fuse", device, str(place)],
                capture_output=True,
                text=True,
                check=False,
            )
        ).returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
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
