"""The heartbeat of a process in a remote cache: an object that says that the process is at work.

    v1/heartbeats/<client>     written again three times in the time that it counts

What a process claims names its heartbeat, and that alone is written again, however much is claimed.
When the process dies, its heartbeat grows old, and what names it counts no more; nor does it where
the heartbeat is gone. So a heartbeat is written before what names it, and deleted after that. How
old one is, the store's own clock says: machines' clocks differ.

A heartbeat that was late once, since its machine was suspended or cut off, never counts again:
others may have taken over what names it. Its process goes on under another name.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import threading
import time
from contextlib import suppress

from olivebuild.cache.remote_records import LAYOUT
from olivebuild.core.errors import InputError, StoreError
from olivebuild.ml.transfer.remote import Entry, Remote

VARIABLE = "OLIVEBUILD_REMOTE_LEASE"
SECONDS = 120.0
"""How long one counts after it was written last."""
SHARE = 3
"""How often it is written in that time."""
OWN = 0.9
"""The part of that time in which its writer relies on it: stores tell whole seconds."""
RETRY = 5.0
"""Seconds after which a first heartbeat that could not be written is tried again."""
HEARTBEATS = f"{LAYOUT}/heartbeats"
NAME = re.compile(rf"{HEARTBEATS}/[0-9a-f]{{32}}".encode())
NOBODYS = b"[]"
"""Text of what could not be deleted: a claim that names no heartbeat, or no blobs."""


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


def heartbeat_in(text: bytes) -> str:
    """Return the name of the heartbeat that a text is; "" where it is none."""
    return text.decode() if NAME.fullmatch(text) else ""


class Heartbeats:
    """The heartbeat of one process, and what it has seen of others'. Threads may share it."""

    def __init__(self, remote: Remote, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._remote = remote
        self._beat: _Beat | None = None
        self._lock = threading.Lock()
        """Held while there comes to be another one."""
        self._fault: tuple[float, Exception] | None = None
        """When the last one could not be written, and why."""
        self._offsets: tuple[float, ...] = ()
        """The store's time less ours, as the last beats showed it.

        The least counts: where that clock is put forward, the living beat anew before it does.
        """
        self._seen: dict[str, _Seen] = {}
        self._left_lock = threading.Lock()
        """Held while what was left is deleted."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def name(self) -> str:
        """Return the name of our heartbeat, which is there now.

        Raises StoreError, and obstore's errors.
        """
        with self._lock:
            if self._beat is None or self._beat.is_late():
                self._beat = self._begin()
            return self._beat.name

    def is_alive(self, name: str) -> bool:
        """Return whether a heartbeat is ours and has counted all the time."""
        beat = self._beat
        return beat is not None and beat.name == name and not beat.is_late()

    def counts(self, name: str) -> bool:
        """Return whether the writer of a heartbeat is alive, as far as is known.

        What was seen to be written counts for its time without another look, so that much that
        names one costs one look. What has ceased to count has done so for ever.
        """
        seen = self._seen.setdefault(name, _Seen())
        with seen.lock:
            if not seen.is_over and not (seen.entry and self.is_fresh(seen.entry)):
                # As old as before the look: this machine may be suspended during it.
                asked = self._now()
                seen.entry = self._remote.entry(name) if name else None
                written = seen.entry.modified.timestamp() if seen.entry else -math.inf
                seen.is_over = asked - written > self.seconds
            return not seen.is_over

    def is_fresh(self, entry: Entry) -> bool:
        """Return whether an object was written within the time that a heartbeat counts."""
        return self.age(entry) <= self.seconds

    def age(self, entry: Entry) -> float:
        """Return how many seconds ago an object was written, by the store's clock."""
        return self._now() - entry.modified.timestamp()

    def keep(self, name: str) -> None:
        """Leave an object alone from now on that names ours, though it could not be deleted."""
        with self._left_lock:
            if beat := self._beat:
                beat.left.pop(name, None)

    def end(self, name: str, text: bytes) -> None:
        """Delete an object that is ours, with a text that no other has under this name.

        What may not be deleted is made nobody's, and grows old. What fails is tried again with each
        beat, while the object is ours: it may have been carried out, and another one be there.
        """
        try:
            self._drop(name, text)
        except Exception:  # noqa: BLE001
            # obstore's errors have no common class that is exported.
            self.end_later(name, text)

    def end_later(self, name: str, text: bytes) -> None:
        """Delete an object that is ours, as `end` does, with the next beat."""
        with self._left_lock:
            if beat := self._beat:
                beat.left[name] = text

    def close(self) -> None:
        """End ours, after all that names it."""
        self._ended.set()
        if beat := self._beat:
            with suppress(Exception):
                self._drop_left(beat)
            # One that is being written would be there again.
            with beat.lock, suppress(Exception):
                self._remote.delete(beat.name)
        self._beat = None

    def _now(self) -> float:
        """Return the store's time, which our heartbeat shows, or less."""
        if not self._offsets:
            self.name()
        return _clock() + min(self._offsets)

    def _begin(self) -> _Beat:
        if self._fault and _clock() < self._fault[0] + RETRY:
            raise self._fault[1]
        beat = _Beat(f"{HEARTBEATS}/{secrets.token_hex(16)}", self.seconds * OWN)
        try:
            self._remote.replace(beat.name, beat.text())
            self._read_clock(beat)
        except Exception as e:
            self._fault = _clock(), e
            raise
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return beat

    def _read_clock(self, beat: _Beat) -> None:
        """Note the store's time of a beat that was written just now."""
        written = _clock()
        if (entry := self._remote.entry(beat.name)) is None:
            raise StoreError("what was written there is gone", hint="is it being emptied?")
        offset = entry.modified.timestamp() - written
        self._offsets = (*self._offsets[-SHARE:], offset)

    def _run(self) -> None:
        while not self._ended.wait(self.seconds / SHARE):
            if beat := self._beat:
                self._renew(beat)
                with suppress(Exception):
                    self._drop_left(beat)

    def _renew(self, beat: _Beat) -> None:
        # A write that fails is tried again, before the heartbeat counts no more.
        with beat.lock, suppress(Exception):
            begun = _clock()
            if beat.is_late() or self._ended.is_set():
                return
            self._remote.replace(beat.name, beat.text())
            if beat.is_late():
                # It took too long: others may have seen it old before.
                self._remote.delete(beat.name)
            else:
                beat.written = begun
                self._read_clock(beat)

    def _drop_left(self, beat: _Beat) -> None:
        """Raises what the first one raises: the next beat must not wait for all."""
        for name in list(beat.left):
            with self._left_lock:
                # What names one that was late may be another's by now.
                if (text := beat.left.get(name)) is not None and not beat.is_late():
                    if self._remote.read(name) == text:
                        self._drop(name, text)
                    beat.left.pop(name)

    def _drop(self, name: str, text: bytes) -> None:
        try:
            self._remote.delete_once(name)
        except PermissionError:
            # Who may not delete may write.
            if self._remote.read(name) == text:
                self._remote.replace(name, NOBODYS)


class _Beat:
    """A heartbeat of ours. One that was late once is so for ever."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self.lock = threading.Lock()
        """Held while it is written again or deleted."""
        self.written = _clock()
        """When the last write that counts began."""
        self.left: dict[str, bytes] = {}
        """Objects of its process that could not be deleted, with their texts."""
        self._seconds = seconds
        self._count = 0

    def is_late(self) -> bool:
        return _clock() - self.written > self._seconds

    def text(self) -> bytes:
        """Return another text each time: what is read back is what was written last."""
        self._count += 1
        return str(self._count).encode()


class _Seen:
    """What was seen of a heartbeat."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entry: Entry | None = None
        self.is_over = False


def _clock() -> float:
    """Return seconds that go on while the machine is suspended, where it has such a clock.

    On macOS CLOCK_MONOTONIC does, and time.monotonic() is another clock, which stands still.
    """
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        if (which := getattr(time, name, None)) is not None:
            return time.clock_gettime(which)
    return time.monotonic()
