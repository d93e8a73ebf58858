"""Links in what a recipe names.

What is read and published is what was named, so a link may not lead out of the folder it lies in.

The path that the user names may itself be a link. There are two exceptions. The files of a snapshot
of the Hugging Face hub's own cache are links to `blobs/` of its repository
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache), each to one regular file there.
Folders below `.olivebuild` that show an MLflow model consist of links into that model's folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from olivebuild.core.errors import InputError, Where

REPOSITORY = re.compile(r"(models|datasets|spaces)--.+")
STATE, VIEWS, MLMODEL = ".olivebuild", "mlflow", "MLmodel"
"""Folder of the state of builds, the one in it for MLflow models, and what such a model holds."""
BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def leaving(folder: Path, paths: Iterator[Path] | list[Path]) -> Iterator[tuple[Path, str]]:
    """(link, target) for those of `paths`, all in or below `folder`, that lead out of it."""
    root = os.path.realpath(folder)
    inside = os.path.join(root, "")
    for path in paths:
        if path.is_symlink():
            real_path = os.path.realpath(path)
            if real_path != root and not real_path.startswith(inside) and not _is_allowed(path):
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


def _is_allowed(link: Path) -> bool:
    return _is_blob(link) or _is_of_mlflow(link)


def _is_of_mlflow(link: Path) -> bool:
    """Return whether a link of a folder that shows an MLflow model leads to a file of that model.

    It stays inside the folder with `MLmodel`.
    """
    parts = link.parent.parts
    if STATE not in parts or VIEWS not in parts[parts.index(STATE) :]:
        return False
    target = Path(os.readlink(link))
    root = next((p for p in target.parents if (p / MLMODEL).is_file()), None)
    if root is None:
        return False
    return os.path.realpath(link).startswith(os.path.join(os.path.realpath(root), ""))


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
