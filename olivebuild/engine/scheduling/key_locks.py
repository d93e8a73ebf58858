"""Locks of keys: of builds that want the same result, one makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import IO, Protocol

from olivebuild.cache.store import Store
from olivebuild.core.fs.locks import try_lock


class Leaser(Protocol):
    """What keeps builds on other machines from making the same."""

    def waits(self, key: str) -> bool:
        """Return whether another machine makes a key's result, as far as is known."""

    def lease(self, keys: Iterable[str]) -> set[str]:
        """Return those keys whose results this build may make."""

    def release(self, key: str) -> None:
        """Let others make a key's result, if nothing has come here of it."""


class KeyLocks:
    """The locks of keys, of which another build may hold some."""

    def __init__(self, store: Store, remote: Leaser | None, tell: Callable[[str], None]) -> None:
        """`remote`: where other machines' builds are asked, too.

        `tell` is called once with each node that has to wait for another build.
        """
        self.elsewhere: set[str] = set()
        """Nodes whose keys other builds were making when they were last tried."""
        self.uncertain: set[str] = set()
        """Those of them whose results may be here, or in the remote cache, by now."""
        self._store = store
        self._remote = remote
        self._tell = tell
        self._told: set[str] = set()

    def clear(self) -> None:
        """Try all again."""
        self.elsewhere.clear()
        self.uncertain.clear()

    def take(self, node: str, key: str) -> IO[bytes] | None:
        """Return the lock of a node's key on this machine; None where another build makes it."""
        if self._remote and self._remote.waits(key):
            self._wait(node)
            return None
        lock = try_lock(self._store.lock_file(key))
        if lock is None:
            self.uncertain.add(node)
            self._wait(node)
        return lock

    def lease(self, nodes: dict[str, str]) -> set[str]:
        """Return those keys that this build may make; `nodes`: key that is locked here -> node.

        The others are asked for all at once.
        """
        if self._remote is None:
            return set(nodes)
        leased = self._remote.lease(nodes)
        for key, node in nodes.items():
            if key not in leased:
                if not self._remote.waits(key):
                    self.uncertain.add(node)
                self._wait(node)
        return leased

    def give_back(self, key: str | None, lock: IO[bytes]) -> None:
        """Let other builds make a key, unless its result is on its way to them."""
        lock.close()
        if self._remote and key:
            self._remote.release(key)

    def _wait(self, node: str) -> None:
        self.elsewhere.add(node)
        if node not in self._told:
            self._told.add(node)
            self._tell(node)
