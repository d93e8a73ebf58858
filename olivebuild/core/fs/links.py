"""Links in what a recipe names.

What is read and published is what was named, so a link may not lead out of the folder it lies in.

The path that the user names may itself be a link. A snapshot of the Hugging Face hub's own cache is
the exception: its files are links to
`blobs/` of its repository (https://huggingface.co/docs/huggingface_hub/guides/manage-cache), each
to one regular file there.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from olivebuild.core.errors import InputError, Where

REPOSITORY = re.compile(r"(models|datasets|spaces)--.+")
BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def leaving(folder: Path, paths: Iterator[Path] | list[Path]) -> Iterator[tuple[Path, str]]:
    """(link, target) for those of `paths`, all in or below `folder`, that lead out of it."""
    root = os.path.realpath(folder)
    inside = os.path.join(root, "")
    for path in paths:
        if path.is_symlink():
            real_path = os.path.realpath(path)
            if real_path != root and not real_path.startswith(inside) and not _is_blob(path):
                yield path, os.readlink(path)


def check(folder: Path, paths: Iterator[Path] | list[Path], where: Where | str | None) -> None:
    """Raises InputError for the first link that leaves `folder`."""
    for path, target in leaving(folder, paths):
        name = path.relative_to(folder).as_posix()
        hint = (
            f"put the file itself there, or name the folder that it lies in; what {name} leads to "
            "was "
            "not read"
        )
        raise InputError(
            f"the link {name} in {folder.name or folder} leads out of it, to {target}",
            where=where,
            hint=hint,
        )


def _is_blob(link: Path) -> bool:
    """Return whether a link of a hub's snapshot leads to a blob of the same repository.

    A blob is a regular file by the name of its hash.
    """
    # By the real place of the link itself: the snapshot may have been named through another link.
    place = Path(os.path.realpath(link.parent))
    snapshots = next(
        (p for p in place.parents if p.name == "snapshots" and REPOSITORY.fullmatch(p.parent.name)),
        None,
    )
    if snapshots is None:
        return False
    blobs = snapshots.parent / "blobs"
    blob = Path(os.path.normpath(place / os.readlink(link)))
    if blob.parent != blobs or not BLOB.fullmatch(blob.name):
        return False
    try:
        return not blobs.is_symlink() and stat.S_ISREG(blob.lstat().st_mode)
    except OSError:
        return False
