"""Permissions of results made of private files: only who may read all of them may read these.

A file of mode 0600, or one in a folder of mode 0700, is not to come out as 0644 in a cache or in
build/. So the blobs of a result take no more of the system's bits for others than each file had
that went into it, and what is written of blobs no more than each of them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from olivebuild.api.action import Action
from olivebuild.core.fs.files import DEFAULT_MODE, files_below, read_permissions


def mode_of(action: Action) -> int:
    """Return the bits that files made from an action's inputs may have at most.

    All of them on systems without such bits.
    """
    mode = DEFAULT_MODE
    if os.name != "posix":
        return mode
    for path in _files(action):
        with contextlib.suppress(OSError):
            mode &= of(path)
    return mode


def of(path: Path) -> int:
    """Raises OSError. A folder's files can be had by who may search it."""
    mode = path.stat().st_mode
    # The bit for searching lies two below that for reading.
    return read_permissions(mode << 2 if stat.S_ISDIR(mode) else mode)


def _files(action: Action) -> Iterator[Path]:
    named = [Path(file) for files in action.files.values() for file in files]
    for path in [
        *named,
        *(Path(each.folder) for each in action.inputs.values() if each.folder),
    ]:
        yield path
        if path.is_dir():
            yield from files_below(path)
    stored = [each.manifest for each in action.inputs.values() if each.manifest and not each.folder]
    if stored:
        from olivebuild.cache.store import Store

        store = Store(Path(action.store))
        for blob in stored:
            manifest = store.manifest(blob)
            yield from (
                store.find(run, size, manifest.base).path
                for entry in manifest.files
                for run, size in entry.runs()
            )


def restrict(folder: Path, mode: int) -> None:
    """Take from the files in a folder what `mode` does not have."""
    for path in files_below(folder):
        if not path.is_symlink():
            with contextlib.suppress(OSError):
                now = stat.S_IMODE(path.stat().st_mode)
                # Whoever may not read it has no use for running it.
                kept = mode | (mode & 0o444) >> 2
                if now & ~kept:
                    path.chmod(now & kept)
