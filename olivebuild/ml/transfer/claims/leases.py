"""Leases: of many clients of a remote cache one makes a result, and the others wait for it.

    v1/leases/ab/<key>.0      somebody makes the result of a key
    v1/leases/ab/<key>.1      somebody else does, since the writer of .0 has died

A lease is an object that was made where there was none, and a heartbeat of its holder. One that has
grown old is left where it is, and the next number is taken: so that, too, has one winner, and needs
nothing of a store but If-None-Match (RFC 9110, 13.1.2). Leases save work. Results are right without
them, for a trace is made only where there is none.
"""

from __future__ import annotations

import threading

from olivebuild.cache.remote_records import LAYOUT
from olivebuild.ml.transfer.claims.heartbeats import Heartbeats
from olivebuild.ml.transfer.remote import Remote

LEASES = f"{LAYOUT}/leases"
MOST = 16
"""Dead holders of one lease; after them nobody waits any more."""


def lease_of(key: str) -> str:
    """Return the name of a key's lease."""
    return f"{LEASES}/{key[:2]}/{key}"


class Leases:
    """The leases that one process has."""

    def __init__(self, remote: Remote, heartbeats: Heartbeats) -> None:
        self.are_kept = True
        """False where the store makes an object again that is there."""
        self._remote = remote
        self._heartbeats = heartbeats
        self._held: dict[str, int] = {}
        """Name -> its number."""
        self._elsewhere: set[str] = set()
        """Names that others held when they were last tried."""
        self._is_tried = False
        self._lock = threading.Lock()

    def take(self, name: str) -> bool:
        """Return whether we hold a lease now; it is kept until it is released.

        Where the store keeps none, or all numbers are of the dead, the answer is yes.
        """
        for number in range(MOST):
            if not self.are_kept or name in self._held:
                return True
            place = _object(name, number)
            # Who waits for another reads, and does not write.
            entry = self._remote.entry(place) if name in self._elsewhere else None
            if entry is None and self._make(name, number):
                return True
            entry = entry or self._remote.entry(place)
            if entry is None:
                # It was released just now: whoever asks next tries again.
                return False
            if self._heartbeats.counts(entry):
                self._elsewhere.add(name)
                return False
        return True

    def is_held(self, name: str) -> bool:
        """Return whether we hold a lease, and have all the time."""
        number = self._held.get(name)
        return number is not None and self._heartbeats.is_alive(_object(name, number))

    def release(self, name: str) -> None:
        """Give a lease back. One that we do not hold is left alone."""
        with self._lock:
            number = self._held.pop(name, None)
        for each in range(number + 1 if number is not None else 0):
            self._heartbeats.end(_object(name, each))

    def close(self) -> None:
        """Release all."""
        for name in list(self._held):
            self.release(name)

    def create(self, name: str, data: bytes) -> bool:
        """Put an object where there is none; return whether it is ours that is there.

        The first one is made twice, so that it shows whether the store heeds If-None-Match.
        """
        is_ours = self._remote.create(name, data)
        if not self._is_tried:
            self._is_tried = True
            self.are_kept = not (is_ours and self._remote.create(name, data))
        return is_ours

    def _make(self, name: str, number: int) -> bool:
        place = _object(name, number)
        if self.create(place, self._heartbeats.owner):
            return self._hold(name, number)
        # After a broken connection the client asks again, and meets what it has made itself.
        return self._is_ours(place) and self._hold(name, number)

    def _is_ours(self, place: str) -> bool:
        entry, owner = self._remote.entry(place), self._heartbeats.owner
        # What another has put there may be of any size.
        if entry is None or entry.size != len(owner):
            return False
        return self._remote.read(place) == owner

    def _hold(self, name: str, number: int) -> bool:
        with self._lock:
            self._held[name] = number
            self._elsewhere.discard(name)
        self._heartbeats.keep(_object(name, number), self._heartbeats.owner)
        return True


def _object(name: str, number: int) -> str:
    return f"{name}.{number}"
