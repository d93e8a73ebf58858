"""Marks of use in a remote cache: object stores do not tell when something was read last.

v1/uses/ab/<key>      written when a build used the result of a key, once a day
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from olivebuild.cache.remote_records import LAYOUT
from olivebuild.core import hashing
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.values.strict_json import decode
from olivebuild.ml.transfer.claims.heartbeats import Heartbeats
from olivebuild.ml.transfer.remote import Remote

USES = f"{LAYOUT}/uses"
DAY = 86400.0
PARALLEL = 4
"""Marks that are written at once, beside what a build waits for."""
LAST_SECONDS = 2.0
"""How long the end of a build waits for marks."""


def use_of(key: str) -> str:
    """Return the name of a key's mark."""
    return f"{USES}/{key[:2]}/{key}"


class Uses:
    """Marks of use by one process. They are written meanwhile, as far as there is time."""

    def __init__(self, remote: Remote, heartbeats: Heartbeats, root: Path) -> None:
        """`root` is the folder of a cache that keeps which marks are right for today."""
        self._remote = remote
        self._heartbeats = heartbeats
        self._file = root / f"remote-uses-{hashing.of_bytes(remote.url.encode())[:16]}.json"
        self._noted: dict[str, float] | None = None
        """Key -> when its mark was seen to be of that day."""
        self._pool = ThreadPoolExecutor(PARALLEL)
        self._futures: list[Future[None]] = []

    def note(self, key: str) -> None:
        """Mark a result as used, soon.

        Who may only read the remote cache can't, and is not told: what he reads is none the worse.
        """
        if self._remote.read_only:
            return
        if self._noted is None:
            self._noted = _load(self._file)
        if key not in self._noted:
            self._futures.append(self._pool.submit(self._write, key, self._noted))

    def close(self) -> None:
        """Write on for LAST_SECONDS, and leave the rest to the next build."""
        wait(self._futures, LAST_SECONDS)
        self._pool.shutdown(cancel_futures=True)
        if self._noted:
            with suppress(OSError):
                write_atomically(self._file, json.dumps(self._noted).encode())

    def _write(self, key: str, noted: dict[str, float]) -> None:
        with suppress(Exception):
            entry = self._remote.entry(use_of(key))
            if entry is None or self._heartbeats.age(entry) > DAY:
                self._remote.replace(use_of(key), b"")
            noted[key] = time.time()


def _load(file: Path) -> dict[str, float]:
    """Return what was noted within a day."""
    try:
        noted = decode(opening.read(file), dict[str, float])
    except (OSError, ValueError):
        return {}
    now = time.time()
    return {key: when for key, when in noted.items() if 0 <= now - when < DAY}
