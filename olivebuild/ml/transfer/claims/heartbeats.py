"""Small objects of a remote cache that say that somebody is at work, while he is.

They are written again three times in the time that they count. When their writer dies, they grow
old, and count no more. How old one is, the store's own clock says: machines' clocks differ.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress

from olivebuild.cache.remote_records import LAYOUT
from olivebuild.core.errors import InputError
from olivebuild.ml.transfer.remote import Entry, Remote

VARIABLE = "OLIVEBUILD_REMOTE_LEASE"
SECONDS = 120.0
"""How long one counts after it was written last."""
SHARE = 3
"""How often it is written in that time."""
PARALLEL = 8
CLOCK = f"{LAYOUT}/clock"
"""The object by which a client learns what time the store has."""


def duration() -> float:
    """Return for how many seconds a heartbeat counts; 0 where there are to be no leases.

    Raises InputError for what is no number.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text or SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < float("inf"):
        hint = "write seconds, the same on all machines, or 0 for no leases"
        raise InputError(f"{text!r} is no duration of leases", where=VARIABLE, hint=hint)
    return seconds


class Heartbeats:
    """The heartbeats of one process."""

    def __init__(self, remote: Remote, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.owner = secrets.token_hex(16).encode()
        """What its objects hold."""
        self._remote = remote
        self._beats: dict[str, _Beat] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._offset: float | None = None

    def keep(self, name: str, data: bytes) -> None:
        """Write an object that is there again until it is ended."""
        with self._lock:
            self._beats[name] = _Beat(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def end(self, name: str) -> None:
        """Delete an object. What can't be deleted grows old."""
        with self._lock:
            beat = self._beats.pop(name, None)
        # One that is being written would be there again.
        with beat.lock if beat else nullcontext(), suppress(Exception):
            self._remote.delete(name)

    def is_alive(self, name: str) -> bool:
        """Return whether one of ours has counted all the time."""
        beat = self._beats.get(name)
        return beat is not None and not beat.is_late(self.seconds)

    def close(self) -> None:
        """End all."""
        self._ended.set()
        for name in list(self._beats):
            self.end(name)

    def counts(self, entry: Entry) -> bool:
        """Return whether an object's writer is alive, as far as is known."""
        return self.age(entry) <= self.seconds

    def age(self, entry: Entry) -> float:
        """Return how many seconds ago an object was written, by the store's clock."""
        if self._offset is None:
            self._remote.replace(CLOCK, self.owner)
            now = self._remote.entry(CLOCK)
            if now is None:
                return 0.0
            self._offset = now.modified.timestamp() - _clock()
        return _clock() + self._offset - entry.modified.timestamp()

    def _run(self) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            while not self._ended.wait(self.seconds / SHARE):
                list(pool.map(self._write, list(self._beats)))

    def _write(self, name: str) -> None:
        beat = self._beats.get(name)
        if beat is None:
            return
        # A write that fails is tried again, before the object counts no more.
        with beat.lock, suppress(Exception):
            if name in self._beats and not beat.is_late(self.seconds):
                self._remote.replace(name, beat.data)
                beat.written = _clock()


class _Beat:
    """An object that is kept fresh. One that was late once is left to grow old."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.lock = threading.Lock()
        """Held while it is written or deleted."""
        self.written = _clock()

    def is_late(self, seconds: float) -> bool:
        return _clock() - self.written > seconds


def _clock() -> float:
    """Return seconds that go on while the machine is suspended, where it has such a clock."""
    which = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if which is None else time.clock_gettime(which)
