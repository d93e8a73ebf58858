"""The nearest file of a name in the folders above one: the recipe that a command means.

The search ends where git's does (git-config, `safe.directory`, and the discovery of a repository):
at a file system's border, and at files that another user owns. It ends at the root of a repository
and at the home folder, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from olivebuild.core.errors import RecipeError, Where

REPOSITORIES = (".git", ".hg", ".jj")
"""Entries by which a folder is the root of a repository. `.git` is a file in a worktree."""


def nearest(folder: Path, name: str, *beside: str) -> Path | None:
    """Return the nearest folder above `folder` that has a file `name`; None where there is none.

    Raises RecipeError where another user owns the file, its folder or what lies `beside` it.
    """
    for above in _searched(folder):
        file = above / name
        if file.is_file():
            _check_owner(file, beside)
            return above
    return None


def _searched(folder: Path) -> Iterator[Path]:
    """Yield the folders above `folder` that are searched, nearest first."""
    home = os.path.expanduser("~")
    here = folder
    while not _is_border(here, home):
        here = here.parent
        yield here


def _is_border(folder: Path, home: str) -> bool:
    """Return whether the search ends in a folder, though the file is not there."""
    above = folder.parent
    if above == folder or str(folder) == home:
        return True
    try:
        return os.stat(folder).st_dev != os.stat(above).st_dev or any(
            os.path.lexists(folder / name) for name in REPOSITORIES
        )
    except OSError:
        return True


def _check_owner(file: Path, beside: Iterable[str]) -> None:
    """Raise RecipeError for a file that another user owns, or in a folder of neither's nor root's.

    What it says would run as this user, who did not name it. As in git, `sudo` keeps the user.
    """
    if not hasattr(os, "geteuid"):
        return
    mine = {os.geteuid()}
    if 0 in mine and (user := os.environ.get("SUDO_UID", "")).isdigit():
        mine.add(int(user))
    places = [(file, mine), (file.parent, mine | {0})]
    for path, allowed in [*places, *((file.parent / name, mine) for name in beside)]:
        try:
            owner = os.lstat(path).st_uid
        except OSError:
            continue
        if owner not in allowed:
            fact = f"the nearest {file.name} is not yours: {_name_of(owner)} owns {path}"
            hint = f"-C {file.parent} reads it all the same; what it runs, runs as you"
            raise RecipeError(fact, where=Where(str(file)), hint=hint)


def _name_of(user: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(user).pw_name
    except (ImportError, KeyError):
        return f"user {user}"
