"""Leases: of many clients of a remote cache one makes a result, and the others wait for it.

    v1/leases/ab/<key>.0      somebody makes the result of a key
    v1/leases/ab/<key>.1      somebody else does, since the holder of .0 has died

A lease is an object that was made where there was none. Its text is the name of its holder's
heartbeat, and it counts while that does. A lease with any other text, or a long one, counts by its
own age, as a heartbeat does. One that counts no more is left where it is, and the next number is
taken: so that, too, has one winner, and needs nothing of a store but If-None-Match (RFC 9110,
13.1.2). Leases save work. Results are right without them, for a trace is made only where there is
none.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from olivebuild.cache.remote_records import LAYOUT
from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.claims.heartbeats import Heartbeats, heartbeat_in
from olivebuild.ml.transfer.remote import Remote

LEASES = f"{LAYOUT}/leases"
MOST = 16
"""Dead holders of one lease; after them nobody waits any more."""
LONGEST = 256
"""Bytes of a lease that are read."""


def lease_of(key: str) -> str:
    """Return the name of a key's lease."""
    return f"{LEASES}/{key[:2]}/{key}"


class _Held(NamedTuple):
    number: int
    heartbeat: str


class Leases:
    """The leases that one process has."""

    def __init__(self, remote: Remote, heartbeats: Heartbeats) -> None:
        self.are_kept = True
        """False where the store makes an object again that is there."""
        self._remote = remote
        self._heartbeats = heartbeats
        self._held: dict[str, _Held] = {}
        self._elsewhere: set[str] = set()
        """Names that others held when they were last tried."""
        self._is_tried = False
        self._lock = threading.Lock()

    def take(self, name: str, numbers: int = MOST) -> bool:
        """Return whether we hold a lease now; it is kept until it is released.

        Where the store keeps none, or all numbers are of the dead, the answer is yes.
        """
        before: str | None = None
        for number in range(numbers):
            if not self.are_kept or self.is_held(name):
                return True
            place, ours = _object(name, number), self._heartbeats.name()
            self._heartbeats.keep(place)
            # Who waits for another reads, and does not write.
            holder = self._holder(place) if name in self._elsewhere else None
            if holder is None:
                is_made = self.create(place, ours.encode())
                # After a broken connection the client asks again, and meets what it has made.
                holder = ours if is_made else self._holder(place)
            if holder == ours:
                return self._hold(name, _Held(number, ours), before)
            if holder is None or self._counts(place, holder):
                # It is another's, or was until now: whoever asks next tries again.
                self._elsewhere.add(name)
                return False
            before = holder
        return True

    def is_held(self, name: str) -> bool:
        """Return whether we hold a lease, and have all the time."""
        held = self._held.get(name)
        return held is not None and self._heartbeats.is_alive(held.heartbeat)

    def is_taken(self, name: str) -> bool:
        """Return whether anybody holds a lease."""
        for number in range(MOST):
            place = _object(name, number)
            holder = self._holder(place)
            if holder is None or self._counts(place, holder):
                return holder is not None
        return False

    def release(self, name: str) -> None:
        """Give a lease back. One that we do not hold, or were late with, is left alone.

        The last number goes last: who finds it gone finds those before it gone, too. The others
        are of the dead, and are deleted now or left: later they may be made anew.
        """
        with self._lock:
            is_held, held = self.is_held(name), self._held.pop(name, None)
        if held is None or not is_held:
            return
        ours, text = _object(name, held.number), held.heartbeat.encode()
        try:
            for number in range(held.number):
                self._remote.delete_once(_object(name, number))
        except Exception:  # noqa: BLE001
            # obstore's errors have no common class. Who is on the way to the last one meets it.
            self._heartbeats.end_later(ours, text)
        else:
            self._heartbeats.end(ours, text)

    def clear(self, name: str, last: int) -> None:
        """Delete what the dead have left of a lease; `last` is its last number that was seen.

        It is taken for that, so that nobody takes it meanwhile.
        """
        # The number after the last is looked at, too: there is none that is not of the dead.
        self.take(name, last + 2)
        if self.is_held(name):
            for number in range(self._held[name].number + 1, last + 1):
                holder = self._holder(place := _object(name, number))
                if holder is not None and not self._counts(place, holder):
                    self._remote.delete_once(place)
        self.release(name)

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

    def _hold(self, name: str, held: _Held, before: str | None) -> bool:
        """Hold what was made; `before` is the dead holder of the number before, if there is one."""
        if held.number and self._holder(_object(name, held.number - 1)) != before:
            # It was released meanwhile, so that another may have made it anew.
            self._heartbeats.end(_object(name, held.number), held.heartbeat.encode())
            return False
        with self._lock:
            self._held[name] = held
            self._elsewhere.discard(name)
        return True

    def _holder(self, place: str) -> str | None:
        """Return the heartbeat that a lease names; "" if it is no such text, None without one."""
        try:
            text = self._remote.read(place, LONGEST)
        except StoreError:
            return ""
        return None if text is None else heartbeat_in(text)

    def _counts(self, place: str, holder: str) -> bool:
        if holder:
            return self._heartbeats.counts(holder)
        entry = self._remote.entry(place)
        # Released just now: as if it were still held.
        return entry is None or self._heartbeats.is_fresh(entry)


def _object(name: str, number: int) -> str:
    return f"{name}.{number}"
