"""Deleting below our own folders, where no link is followed: the one place that deletes trees.

A folder that a stranger can fill (a cloned repository, a shared cache) may hold links where we
expect folders of our own. The root is what the user named and may hold links; below it every folder
is opened by its name in the one before it (openat, O_NOFOLLOW), so that a link, also one that
appears meanwhile, is never a way out. Where the system has no such calls, each folder is looked at
before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from olivebuild.core.errors import StoreError

BY_HANDLE = shutil.rmtree.avoids_symlink_attacks
"""Whether folders are deleted by handles here."""


def check(root: Path, *folders: Path) -> None:
    """Check that only folders lie at and on the way to `folders`, which lie below `root`.

    Raises StoreError for a link, or anything else.
    """
    for folder in folders:
        at = root
        for part in folder.relative_to(root).parts:
            at = at / part
            if is_link(at):
                raise link_found(at)


def is_link(path: Path) -> bool:
    # A junction is Windows' link to a folder, and pathlib does not call it one before Python 3.12.
    return path.is_symlink() or (
        os.name == "nt"
        and os.path.lexists(path)
        and os.path.realpath(path.parent / path.name) != _plain(path)
    )


def _plain(path: Path) -> str:
    return os.path.join(os.path.realpath(path.parent), path.name)


def link_found(path: Path) -> StoreError:
    hint = (
        "delete the link; OLIVEBUILD_BUILD names a folder on another disk for results, "
        "OLIVEBUILD_CACHE one for the cache"
    )
    return StoreError(
        "a link stands where olivebuild keeps what it deletes and replaces",
        where=str(path),
        hint=hint,
    )


def delete(root: Path, path: Path, *, ignore_errors: bool = True) -> None:
    """Delete the file or tree at `path`, which lies below `root`.

    Of a link the link alone, and what is not there is no error.

    Raises StoreError when a folder on the way is a link; OSError when something can't be deleted,
    unless `ignore_errors`.
    """
    relative = path.relative_to(root)
    if not relative.parts or ".." in relative.parts:
        raise ValueError(f"{path} does not lie below {root}")
    with (
        contextlib.suppress(FileNotFoundError),
        contextlib.suppress(*([OSError] if ignore_errors else [])),
    ):
        if BY_HANDLE:
            with _opened(root, relative.parent) as folder:
                _delete(relative.name, folder, ignore_errors=ignore_errors)
        else:
            check(root, path.parent)
            if path.is_dir() and not is_link(path):
                shutil.rmtree(path, ignore_errors=ignore_errors)
            else:
                path.unlink()


@contextlib.contextmanager
def _opened(root: Path, relative: Path) -> Iterator[int]:
    """A handle of the folder `relative` below `root`.

    Raises StoreError for a link on the way, FileNotFoundError where there is nothing.
    """
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    at = root
    try:
        for part in relative.parts:
            at = at / part
            try:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            except OSError as e:
                if e.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise link_found(at) from None
                raise
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _delete(name: str, folder: int, *, ignore_errors: bool) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):
        # POSIX lets unlink answer EPERM for a folder. A link in its place meanwhile is refused by
        # rmtree.
        shutil.rmtree(name, ignore_errors=ignore_errors, dir_fd=folder)
