"""The folder of a job on a site: all that is known of it, so that any agent can go on.

ROOT/jobs/KEY/action.json    the portable action
              attempt        a name of the process that is to run it
              id             the launcher's name of the job
              events         what the step said, a JSON object a line
              log            what it and the launcher printed
              outcome.json   how it ended; written last
              stopped        there where it was asked to stop
              again          there where it is to be started again
              time-is-up     the seconds that it was allowed, where it was ended after them
              work/          scratch
ROOT/inputs/MANIFEST/        inputs, put in place once for all jobs
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import IO, Literal, get_args

from olivebuild.core import text
from olivebuild.core.errors import StoreError, of_disk
from olivebuild.core.fs import trees
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.fs.locks import try_lock
from olivebuild.executors.site.portable import PortableAction, PortableOutcome

KEY = re.compile(r"[0-9a-f]{32}")
TIME_IS_UP = "time-is-up"
"""A file of a job that was ended since it may run no longer."""
Mark = Literal["stopped", "again"]
PRIVATE = 0o600
"""Rows and models of others' are nobody else's on that machine."""


class JobFolder:
    def __init__(self, root: Path, key: str) -> None:
        """Raises ValueError for what is no key."""
        if not KEY.fullmatch(key):
            raise ValueError(f"{key[:40]!r} is no key")
        self.root = root
        self.key = key
        self.path = root / "jobs" / key
        self.events = self.path / "events"
        self.log = self.path / "log"
        self.work = self.path / "work"
        self.out = self.work / "out"

    def make(self) -> None:
        """Raises StoreError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as e:
            raise of_disk(e, "the site's folder") from None

    def lock(self, name: str) -> IO[bytes] | None:
        """Return a lock of the job, None where another process holds it.

        `job` is held by the job itself, `agent` by an agent that starts it.
        """
        return try_lock(self.root / "locks" / f"{name}-{self.key}.lock")

    @property
    def ident(self) -> str:
        """Return the launcher's name of the job; "" where it was never started."""
        try:
            return (self.path / "id").read_text()[:200]
        except (OSError, ValueError):
            return ""

    @ident.setter
    def ident(self, ident: str) -> None:
        self._write("id", ident.encode())

    @property
    def attempt(self) -> str:
        """Return the attempt that counts: any other ends itself."""
        try:
            return (self.path / "attempt").read_text()[:200]
        except (OSError, ValueError):
            return ""

    @attempt.setter
    def attempt(self, name: str) -> None:
        self._write("attempt", name.encode())

    def read_action(self) -> PortableAction:
        """Raises OSError and ValueError."""
        return PortableAction.from_json((self.path / "action.json").read_bytes())

    def write_action(self, action: PortableAction) -> None:
        self._write("action.json", action.to_json().encode())

    def read_outcome(self) -> PortableOutcome | None:
        """Return how it ended, None where it has not, or can't be read."""
        try:
            outcome = PortableOutcome.from_json((self.path / "outcome.json").read_bytes())
        except (OSError, ValueError):
            return None
        return outcome if outcome.key == self.key else None

    def write_outcome(self, outcome: PortableOutcome) -> None:
        self._write("outcome.json", outcome.to_json().encode())

    @property
    def is_stopped(self) -> bool:
        """Return whether the job was asked to stop."""
        return (self.path / "stopped").exists()

    @property
    def is_to_begin_again(self) -> bool:
        """Return whether the job has ended for a fault of the site."""
        return (self.path / "again").exists()

    @property
    def time_is_up(self) -> str:
        """Return what to tell of a job that was ended after its time; "" of any other."""
        try:
            seconds = float((self.path / TIME_IS_UP).read_text()[:20])
        except (OSError, ValueError):
            return ""
        return f"its `time:` of {text.seconds(seconds)} is up"

    def mark(self, name: Mark) -> None:
        """Say why there is no outcome. Raises StoreError."""
        self._write(name, b"")

    def unmark(self) -> None:
        """Forget why there was no outcome: a scheduler has started the same attempt anew.

        Raises StoreError.
        """
        try:
            for name in get_args(Mark):
                (self.path / name).unlink(missing_ok=True)
        except OSError as e:
            raise of_disk(e, "the site's folder") from None

    def begin(self) -> None:
        """Forget how an earlier attempt ended; what it said stays."""
        self.unmark()
        for name in ("outcome.json", "id", TIME_IS_UP):
            (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all of earlier attempts."""
        self.begin()
        for path in (self.events, self.log):
            path.unlink(missing_ok=True)
        trees.delete(self.path, self.work)

    def delete(self) -> None:
        trees.delete(self.path.parent, self.path)

    def refresh(self) -> None:
        """Have a network file system look at the folder again."""
        with contextlib.suppress(OSError):
            os.listdir(self.path)

    def _write(self, name: str, data: bytes) -> None:
        """Raises StoreError."""
        try:
            write_atomically(self.path / name, data, PRIVATE)
        except OSError as e:
            raise of_disk(e, "the site's folder") from None


def new_bytes(path: Path, offset: int, most: int) -> bytes:
    """Return what a file has from an offset on; nothing where it is not there."""
    try:
        with open(path, "rb") as f:
            f.seek(offset)
            return f.read(most)
    except OSError:
        return b""


def site_root(name: str) -> Path:
    """Return the folder of a site, by default the user's cache. Raises StoreError."""
    if not name:
        from olivebuild.planner.project import cache_folder

        return cache_folder()
    path = Path(name).expanduser()
    if not path.is_absolute():
        path = Path.home() / path
    if path == Path(path.anchor):
        raise StoreError(f"{path} can't hold a site", where=name, hint="name a folder of your own")
    return path
