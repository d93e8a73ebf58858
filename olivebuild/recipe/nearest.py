"""The recipe that a command means where none is named: the one of the folder, or the nearest above.

The search ends where git's does (git-config, `safe.directory`, and the discovery of a repository):
at a file system's border, and at files that another user owns. It ends at the root of a repository
and at the home folder, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from olivebuild.core.errors import RecipeError, Where
from olivebuild.recipe.file import FILE_NAME

REPOSITORIES = (".git", ".hg", ".jj")
"""Entries by which a folder is the root of a repository. `.git` is a file in a worktree."""


def nearest(folder: Path) -> Path | None:
    """Return the nearest folder above `folder` that has a recipe; None where there is none.

    Raises RecipeError for a recipe that another user owns.
    """
    for above in _searched(folder):
        file = above / FILE_NAME
        if file.is_file():
            _check_owner(file)
            return above
    return None


def _searched(folder: Path) -> Iterator[Path]:
    """Yield the folders above `folder` that a recipe of it may lie in, nearest first."""
    home = os.path.expanduser("~")
    here = folder
    while not _is_border(here, home):
        here = here.parent
        yield here


def _is_border(folder: Path, home: str) -> bool:
    """Return whether the search ends in a folder, though that has no recipe."""
    above = folder.parent
    if above == folder or str(folder) == home:
        return True
    try:
        return os.stat(folder).st_dev != os.stat(above).st_dev or any(
            os.path.lexists(folder / name) for name in REPOSITORIES
        )
    except OSError:
        return True


def _check_owner(file: Path) -> None:
    """Raise RecipeError for a recipe that neither this user owns nor, in its folder, root.

    Its commands would run as this user, who did not name it. As in git, `sudo` keeps the user.
    """
    if not hasattr(os, "geteuid"):
        return
    mine = {os.geteuid()}
    if 0 in mine and (user := os.environ.get("SUDO_UID", "")).isdigit():
        mine.add(int(user))
    state = file.parent / ".olivebuild"
    owners = [(file, mine), (file.parent, mine | {0}), (state, mine)]
    for path, allowed in owners:
        try:
            owner = os.lstat(path).st_uid
        except OSError:
            continue
        if owner not in allowed:
            fact = f"the nearest recipe is not yours: {_name_of(owner)} owns {path}"
            hint = f"-C {file.parent} reads it all the same; its commands run as you"
            raise RecipeError(fact, where=Where(str(file)), hint=hint)


def _name_of(user: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(user).pw_name
    except (ImportError, KeyError):
        return f"user {user}"
