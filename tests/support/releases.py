"""Source archives and wheels of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml", "setup.py")
BUILD = """\
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""


def build(kind: str, sources: Path, folder: Path, **environment: str) -> Path:
    """Build an sdist or a wheel; return the file."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(folder)],
        cwd=sources,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def sdist(folder: Path) -> Path:
    """Build the source archive from a copy of this checkout."""
    copy = folder / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "build", ".olivebuild")
    for name in ("olivebuild", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in SOURCES:
        shutil.copyfile(ROOT / name, copy / name)
    return build("sdist", copy, folder / "dist")


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack a source archive; return its folder."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top
