"""`olivebuild watch`: build, wait until something that the build looked at has changed, build
again.

watchfiles only wakes us up. Whether something has changed is the scan's word, so that what a build
writes itself starts no build,
and a change that came while nobody listened is found all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import watchfiles

from olivebuild.core.errors import BuildError, RecipeError
from olivebuild.core.fs.files import Stat, stat_of
from olivebuild.planner.project import Project, open_project
from olivebuild.recipe.file import find
from olivebuild.recipe.lockfile import FILE_NAME as LOCK_NAME
from olivebuild.recipe.lockfile import Lockfile

QUIET_MS = 150
"""A change counts once nothing more has come for this long."""
LOOK_MS = 1000
"""How often to look without being woken: some file systems tell of no changes."""


@dataclass
class Seen:
    """What one build looks at: recipe and lock file as they were before they were read, and the
    rest through the project.
    """

    recipe: Path
    lock: Path
    project: Project | None = None
    stats: dict[Path, Stat | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stats = {path: _stat(path) for path in (self.recipe, self.lock)}

    def changed(self) -> Path | None:
        if _stat(self.recipe) != self.stats[self.recipe]:
            return self.recipe
        if _stat(self.lock) != self.stats[self.lock] and not self._wrote_lock():
            return self.lock
        return self.project.planner.scan.outdated() if self.project else None

    def _wrote_lock(self) -> bool:
        """Whether the lock file says what this build knows: then it was written by it."""
        try:
            now = Lockfile(self.lock)
        except RecipeError:
            return False
        return self.project is not None and (now.sources, now.libraries) == (
            self.project.lock.sources,
            self.project.lock.libraries,
        )

    def folders(self) -> set[Path]:
        """Where changes come from. What is not there yet comes into the nearest folder above it."""
        paths = self.project.planner.scan.depends_on() if self.project else set()
        return {_folder(place) for path in (self.recipe, *paths) for place in (path, path.parent)}


def watch(
    place: tuple[Path, str | None],
    settings: tuple[str, ...],
    build: Callable[[Project], None],
    fail: Callable[[BuildError], None],
    say: Callable[[Path | None], None],
) -> None:
    """Build for ever.

    `fail` shows what `build` raises; `say` tells that we wait (None), or what has changed.

    Raises RecipeError at the first build alone: later the recipe may be in the middle of an edit.
    """
    recipe, first = find(*place), True
    while True:
        seen = Seen(recipe, recipe.parent / LOCK_NAME)
        try:
            seen.project = open_project(*place, settings)
            build(seen.project)
        except BuildError as e:
            if first and isinstance(e, RecipeError):
                raise
            fail(e)
        first = False
        say(None)
        say(_wait(seen))
        if seen.project:
            seen.project.planner.traces.close()


def _wait(seen: Seen) -> Path:
    """Return what has changed, when it has been quiet for a moment."""
    try:
        listening = watchfiles.watch(
            *seen.folders(),
            watch_filter=None,
            step=QUIET_MS,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            recursive=False,
        )
        with closing(listening):
            while True:
                next(listening)
                if found := seen.changed():
                    return found
    except OSError:
        # A folder has gone meanwhile, or the system watches no more of them: looking does.
        while (found := seen.changed()) is None:
            time.sleep(LOOK_MS / 1000)
        return found


def _stat(path: Path) -> Stat | None:
    try:
        return stat_of(path)
    except OSError:
        return None


def _folder(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.is_dir())
