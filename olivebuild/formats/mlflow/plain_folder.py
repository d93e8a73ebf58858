"""Folders in which files from several folders lie side by side, as links.

Loaders that want one folder find them there. No file is copied. A folder is named by what it shows:
it is made once, and never changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.core.fs import trees
from olivebuild.core.fs.files import files_below

Put = Callable[[Path, Path], object]
"""Makes (file, name): the file is had by that name, too."""


def of_links(root: Path, files: Mapping[str, str], parent: Path) -> Path:
    """Return a folder in `parent` in which links lead to the files: name -> path below `root`.

    What they show is what lies there now, whatever it was before. Raises InputError where links
    can't be made.
    """
    place = Path(os.path.abspath(root))
    wanted = {name: place / path for name, path in files.items()}
    return _folder(root, files, wanted, parent, os.symlink, _is_link_to)


def of_files(root: Path, files: Mapping[str, str], parent: Path) -> Path:
    """The same for files of ours that never change, as hard links; as copies on another disk."""
    wanted = {name: Path(os.path.realpath(root / path)) for name, path in files.items()}
    return _folder(root, files, wanted, parent, _put, _is_same)


def _put(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def _is_link_to(name: Path, file: Path) -> bool:
    return name.is_symlink() and Path(os.readlink(name)) == file


def _is_same(name: Path, file: Path) -> bool:
    here, there = name.lstat(), file.stat()
    # On another disk it is a copy, of a file that is named by its content.
    is_copy = here.st_dev != there.st_dev and here.st_size == there.st_size
    return os.path.samestat(here, there) or is_copy


def _folder(
    root: Path,
    files: Mapping[str, str],
    wanted: Mapping[str, Path],
    parent: Path,
    put: Put,
    is_right: Callable[[Path, Path], bool],
) -> Path:
    digest = hashing.of_json([[name, str(file)] for name, file in sorted(wanted.items())])
    folder = parent / f"{root.name[:100]}-{digest[:12]}"
    try:
        mode = _mode(root, files)
        if not _shows(folder, wanted, is_right):
            _make(folder, wanted, put, mode)
        if folder.stat().st_mode & 0o777 != mode:
            folder.chmod(mode)
    except OSError as e:
        raise InputError(
            f"the files of {root.name} can't be linked to from one folder: "
            f"{(e.strerror or str(e)).lower()}",
            where=str(parent),
            hint="may you write there, and make links?",
        ) from None
    return folder


def _shows(
    folder: Path, wanted: Mapping[str, Path], is_right: Callable[[Path, Path], bool]
) -> bool:
    if not folder.is_dir():
        return False
    names = {path.relative_to(folder).as_posix() for path in files_below(folder)}
    return names == wanted.keys() and all(is_right(folder / n, f) for n, f in wanted.items())


def _mode(root: Path, files: Mapping[str, str]) -> int:
    """Return the permissions of all folders on the way to the files. Raises OSError.

    What is made of files in a folder of mode 0700 is private (api/privacy.py).
    """
    folders = {root / parent for path in files.values() for parent in PurePosixPath(path).parents}
    mode = 0o755
    for folder in folders:
        mode &= folder.stat().st_mode
    return mode | 0o700


def _make(folder: Path, wanted: Mapping[str, Path], put: Put, mode: int) -> None:
    """Put a folder in its place whole, since other builds may look. Raises OSError."""
    # Few folders are made.
    from tempfile import mkdtemp

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        scratch.chmod(mode)
        for name, file in wanted.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            put(file, scratch / name)
        trees.delete(folder.parent, folder)
        # Fails where another build was quicker: its folder shows the same.
        scratch.rename(folder)
    except OSError:
        trees.delete(folder.parent, scratch)
        if not folder.is_dir():
            raise
