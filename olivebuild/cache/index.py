"""An index: text keys -> JSON text in a diskcache folder, beside files that are the truth.

It never holds a build up for long, and never fails one.

diskcache would also read pickled rows, which runs code; our Disk refuses them on every path. The
file may be anyone's, so that a statement that does not end is stopped, as is the wait for another
process that keeps the file to itself.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import diskcache

from olivebuild.core.errors import first_line
from olivebuild.core.fs import locks
from olivebuild.core.text import aside

WAIT_SECONDS = 10.0
"""Builds hold an index for milliseconds."""
STEPS = 100_000
"""So many steps of SQLite's machine pass between two looks at the clock."""
FILES = ("cache.db", "cache.db-wal", "cache.db-shm")


class JsonDisk(diskcache.Disk):  # type: ignore[misc]
    """Text keys, JSON text values, nothing else.

    A row of any other mode is refused before it is read.
    """

    def put(self, key: str) -> tuple[str, bool]:
        return key, True

    def get(self, key: object, raw: bool) -> str:
        if not raw or not isinstance(key, str):
            raise ValueError("a row of the index has a key that is not text")
        return key

    def store(self, value: str, read: bool, key: object = None) -> tuple[int, int, None, str]:
        return 0, diskcache.core.MODE_TEXT, None, value

    def fetch(self, mode: int, filename: object, value: object, read: bool) -> str:
        if mode != diskcache.core.MODE_TEXT or filename is not None or not isinstance(value, str):
            raise ValueError("a row of the index is not JSON text")
        return value


class Busy(Exception):
    """Another process keeps the index to itself."""


class _Cache(diskcache.Cache):  # type: ignore[misc]
    """diskcache's cache, each of whose statements ends within `WAIT_SECONDS`.

    Its own would try for a minute each.
    """

    def __init__(self, folder: Path) -> None:
        self._opening = time.monotonic() + WAIT_SECONDS
        self._until = self._opening
        # The default policy would evict rows at 1 GiB. Nothing waits for the disk: a row that a
        # power cut takes is found again or made anew.
        super().__init__(
            str(folder),
            timeout=WAIT_SECONDS,
            disk=JsonDisk,
            eviction_policy="none",
            sqlite_synchronous=0,
        )

    @property
    def _con(self) -> sqlite3.Connection:
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            self.close()
            local.pid = os.getpid()
        con: sqlite3.Connection | None = getattr(local, "con", None)
        if con is None:
            con = sqlite3.connect(
                os.path.join(self._directory, "cache.db"),
                timeout=self._timeout,
                isolation_level=None,
            )
            self._until = time.monotonic() + WAIT_SECONDS
            con.set_progress_handler(lambda: time.monotonic() > self._until, STEPS)
            local.con = con
            # Those of the file are not asked: it would set what it likes.
            for name in ("cache_size", "mmap_size", "journal_mode"):
                self.reset(
                    f"sqlite_{name}",
                    diskcache.core.DEFAULT_SETTINGS[f"sqlite_{name}"],
                    update=False,
                )
            self.reset("sqlite_synchronous", 0, update=False)
        return con

    @property
    def _sql(self) -> Callable[..., Any]:
        execute = self._con.execute

        def run(*arguments: Any) -> Any:
            self._until = time.monotonic() + WAIT_SECONDS
            while True:
                try:
                    return execute(*arguments)
                except sqlite3.OperationalError as e:
                    if "locked" not in str(e):
                        raise
                    # While it is opened there is no timeout, since SQLite itself does not wait for
                    # every sort of lock.
                    if self._timeout or time.monotonic() > self._opening:
                        raise Busy from None
                time.sleep(0.002)

        return run

    @property
    def _sql_retry(self) -> Callable[..., Any]:
        return self._sql


class Index:
    """Reading and writing never raise: what can't be read is as if it were not there.

    `folder` is made if need be.

    Raises StoreError where the file system has no locks: SQLite would take that for another
    process, and wait for it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cache: _Cache | None = None
        locks.check_posix(folder.parent / "locks")
        for attempt in range(2):
            try:
                self._cache = _Cache(folder)
                return
            except Busy:
                self._give_up(f"is kept by {locks.holders(*self._files()) or 'another process'}")
                return
            except Exception as e:  # noqa: BLE001
                # Whatever diskcache makes of another's tables. The file is nothing that can't be
                # made again.
                if attempt == 0:
                    for file in folder.glob("cache.db*"):
                        with contextlib.suppress(OSError):
                            file.unlink()
                else:
                    self._give_up(f"can't be used: {first_line(e)}")

    def get(self, key: str) -> str | None:
        value: object = None
        with self._guarded() as cache:
            value = cache.get(key) if cache is not None else None
        return value if isinstance(value, str) else None

    def set(self, rows: Mapping[str, str]) -> None:
        with self._guarded() as cache:
            if cache is not None:
                with cache.transact() if len(rows) > 1 else contextlib.nullcontext():
                    for key, text in rows.items():
                        cache.set(key, text)

    def delete(self, keys: Iterable[str]) -> None:
        with self._guarded() as cache:
            if cache is not None:
                with cache.transact():
                    for key in keys:
                        cache.delete(key)

    def all_keys(self) -> list[str]:
        """As far as they can be read."""
        keys: list[str] = []
        with self._guarded() as cache:
            keys.extend(cache.iterkeys() if cache is not None else ())
        return keys

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[_Cache | None]:
        try:
            yield self._cache
        except (Busy, diskcache.Timeout):
            self._give_up(f"is kept by {locks.holders(*self._files()) or 'another process'}")
        except (sqlite3.Error, ValueError, TypeError, OverflowError, RecursionError, OSError) as e:
            if str(e) == "interrupted":
                self._give_up(f"does not answer within {WAIT_SECONDS:g} s; it may be deleted")

    def _files(self) -> list[Path]:
        return [self.folder / name for name in FILES]

    def _give_up(self, why: str) -> None:
        """Once, and not again for each row."""
        self._cache = None
        aside(f"{self.folder / FILES[0]} {why}; going on without it, which is slower")
