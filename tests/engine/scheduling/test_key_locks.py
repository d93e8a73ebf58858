"""Locks of keys: what waits for another build of this machine, and what for another machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from olivebuild.cache.store import Store
from olivebuild.engine.scheduling.key_locks import KeyLocks

KEY, OTHER = "a" * 32, "b" * 32


class Machines:
    """Other machines, which make some keys and have made others."""

    def __init__(self, makes: Iterable[str] = (), made: Iterable[str] = ()) -> None:
        self.makes, self.made = set(makes), set(made)
        self.released: list[str] = []

    def waits(self, key: str) -> bool:
        return key in self.makes

    def lease(self, keys: Iterable[str]) -> set[str]:
        return {*keys} - self.makes - self.made

    def release(self, key: str) -> None:
        self.released.append(key)


def test_of_two_builds_of_a_machine_one_waits_and_tells_it_once(tmp_path: Path) -> None:
    told: list[str] = []
    one, other = (KeyLocks(Store(tmp_path), None, told.append) for _ in range(2))
    lock = one.take("node", KEY)
    assert lock
    assert one.lease({KEY: "node"}) == {KEY}
    assert other.take("node", KEY) is other.take("node", KEY) is None
    assert told == ["node"]
    # It may be done at any moment.
    assert other.elsewhere == other.uncertain == {"node"}
    one.give_back(KEY, lock)
    other.clear()
    lock = other.take("node", KEY)
    assert lock
    assert (other.elsewhere, other.uncertain) == (set(), set())
    lock.close()


def test_what_another_machine_makes_is_left_until_it_may_be_done(tmp_path: Path) -> None:
    told: list[str] = []
    machines = Machines(makes=[KEY])
    locks = KeyLocks(Store(tmp_path), machines, told.append)
    assert locks.take("node", KEY) is None
    assert (locks.elsewhere, locks.uncertain, told) == ({"node"}, set(), ["node"])
    machines.makes, machines.made = set(), {KEY}
    locks.clear()
    lock = locks.take("node", KEY)
    free = locks.take("free", OTHER)
    assert lock
    assert free
    assert locks.lease({KEY: "node", OTHER: "free"}) == {OTHER}
    # The plan has to look at it again.
    assert locks.elsewhere == locks.uncertain == {"node"}
    locks.give_back(KEY, lock)
    locks.give_back(OTHER, free)
    assert machines.released == [KEY, OTHER]
