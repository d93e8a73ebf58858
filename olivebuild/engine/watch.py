"""`olivebuild watch`: build, wait for a change of a file that the build depends on, build again.

watchfiles only wakes this process up. The scan decides whether a file has changed. So files that a
build writes itself start no build, and a change during a build is seen after it.
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
"""The milliseconds without another change after which a change counts."""
LOOK_MS = 1000
"""The milliseconds between looks without an event: some file systems report no changes."""


@dataclass
class Seen:
    """The files on which a build depends.

    Recipe and lock file are compared with their stats from before they were read, the rest through
    the project.
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
        """Return whether the lock file's content is this build's own, and so was written by it."""
        try:
            now = Lockfile(self.lock)
        except RecipeError:
            return False
        return self.project is not None and (now.sources, now.libraries) == (
            self.project.lock.sources,
            self.project.lock.libraries,
        )

    def folders(self) -> set[Path]:
        """Return the folders to watch; for a missing file the nearest folder above it."""
        paths = self.project.planner.scan.depends_on() if self.project else set()
        return {_folder(place) for path in (self.recipe, *paths) for place in (path, path.parent)}


def watch(
    place: tuple[Path, str | None],
    settings: tuple[str, ...],
    build: Callable[[Project], None],
    fail: Callable[[BuildError], None],
    say: Callable[[Path | None], None],
) -> None:
    """Build without end.

    `fail` shows the errors of `build`. `say` shows that this process waits (None), or the path
    that has changed. Raises RecipeError at the first build alone: later the recipe may be in the
    middle of an edit.
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
    """Return a path that has changed, after a moment without other changes."""
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
                if path := seen.changed():
                    return path
    except OSError:
        # A folder has gone meanwhile, or the system watches no more of them: polling is left.
        while (path := seen.changed()) is None:
            time.sleep(LOOK_MS / 1000)
        return path


def _stat(path: Path) -> Stat | None:
    try:
        return stat_of(path)
    except OSError:
        return None


def _folder(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.is_dir())
