"""Leases: one holder at a time, and another when the holder has died."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pytest

from olivebuild.ml.transfer.claims.heartbeats import HEARTBEATS, Heartbeats
from olivebuild.ml.transfer.claims.leases import LEASES, LONGEST, MOST, Leases, lease_of
from olivebuild.ml.transfer.remote import Remote

KEY = "ab" * 16
NAME = lease_of(KEY)


class Client(Leases):
    """A client with a connection of its own, whose requests are counted."""

    def __init__(self, root: Path, seconds: float = 60.0) -> None:
        self.remote = Remote((root / "remote").as_uri())
        self.beats = Heartbeats(self.remote, seconds)
        self.asked: Counter[tuple[str, str]] = Counter()
        """(method, folder) -> how often."""
        for method in ("create", "replace", "read", "entry", "delete"):
            setattr(self.remote, method, self._counted(method, getattr(self.remote, method)))
        super().__init__(self.remote, self.beats)

    def _counted(self, method: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def counted(name: str, *values: Any) -> Any:
            self.asked[method, "/".join(name.split("/")[:2])] += 1
            return ask(name, *values)

        return counted

    def die(self) -> None:
        """Renew nothing any more, as a process that was killed."""
        self.beats._ended.set()

    def be_late(self) -> None:
        """Be as a process whose machine was suspended."""
        assert self.beats._beat
        self.beats._beat.written -= 1e6


Make = Callable[..., Client]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Make]:
    """Yield what makes clients of one folder."""
    clients: list[Client] = []

    def make(seconds: float = 60.0) -> Client:
        clients.append(Client(tmp_path, seconds))
        return clients[-1]

    yield make
    for one in clients:
        one.beats.close()


def test_of_many_at_once_one_has_it(client: Make) -> None:
    clients = [client() for _ in range(16)]
    start = threading.Barrier(len(clients))

    def take(one: Leases) -> bool:
        start.wait()
        return one.take(NAME)

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(take, clients))
    assert answers.count(True) == 1
    holder = clients[answers.index(True)]
    assert holder.is_held(NAME)
    assert holder.take(NAME)
    assert holder.are_kept
    other = next(one for one in clients if one is not holder)
    assert not other.take(NAME)
    other.release(NAME)
    assert not other.take(NAME)
    holder.release(NAME)
    assert other.take(NAME)
    assert not holder.take(NAME)


def test_of_many_one_takes_over_from_the_dead(client: Make, tmp_path: Path) -> None:
    # Nobody writes this one again.
    dead = tmp_path / "remote" / f"{NAME}.0"
    dead.parent.mkdir(parents=True)
    dead.write_text("somebody")
    clients = [client(0.5) for _ in range(8)]
    assert not any(one.take(NAME) for one in clients)
    time.sleep(0.6)
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(lambda one: one.take(NAME), clients))
    assert answers.count(True) == 1
    clients[answers.index(True)].release(NAME)
    # What the dead has left went with it.
    assert not dead.exists()


def test_where_all_are_dead_nobody_waits(client: Make, tmp_path: Path) -> None:
    for number in range(MOST):
        dead = tmp_path / "remote" / f"{NAME}.{number}"
        dead.parent.mkdir(parents=True, exist_ok=True)
        dead.write_text("somebody")
    time.sleep(0.3)
    assert client(0.2).take(NAME)


def test_what_we_have_made_is_ours_though_the_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote((tmp_path / "remote").as_uri())
    leases = Leases(remote, Heartbeats(remote))
    create = remote.create

    def lose(name: str, data: bytes) -> bool:
        create(name, data)
        return create(name, data)

    monkeypatch.setattr(remote, "create", lose)
    assert leases.take(NAME)
    assert leases.is_held(NAME)
    leases.close()
    assert list(remote.entries(LEASES)) == []


def test_a_store_that_makes_again_what_is_there_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote((tmp_path / "remote").as_uri())
    leases = Leases(remote, Heartbeats(remote))

    def ignoring(name: str, data: bytes) -> bool:
        remote.replace(name, data)
        return True

    monkeypatch.setattr(remote, "create", ignoring)
    assert leases.take(NAME)
    assert not leases.are_kept
    assert leases.take(lease_of("cd" * 16))


KEYS = [lease_of(f"{number:032x}") for number in range(40)]
SHORT = 1.2
"""Seconds of a lease that is waited for."""


def test_renewals_do_not_grow_with_what_is_held(client: Make) -> None:
    one = client(SHORT)
    assert all(map(one.take, KEYS))
    one.asked.clear()
    begun = time.monotonic()
    time.sleep(2.0)
    assert all(map(one.is_held, KEYS))
    # It beats each 0.4 seconds, looks what time that was, and nothing else is written.
    assert set(one.asked) == {("replace", HEARTBEATS), ("entry", HEARTBEATS)}
    assert 3 <= one.asked["replace", HEARTBEATS] <= (time.monotonic() - begun) / 0.4 + 1


def test_who_waits_for_many_looks_at_their_holder_once(client: Make) -> None:
    holder, other = client(), client()
    assert all(map(holder.take, KEYS))
    assert not any(map(other.take, KEYS))
    assert other.asked["entry", HEARTBEATS] == 2
    other.asked.clear()
    for _ in range(3):
        assert not any(map(other.take, KEYS))
    assert other.asked == {("read", LEASES): 3 * len(KEYS)}


def test_all_that_a_killed_client_held_is_taken_over_once(client: Make) -> None:
    dead, others = client(SHORT), [client(SHORT) for _ in range(6)]
    assert all(map(dead.take, KEYS))
    dead.die()
    assert not any(one.take(KEYS[0]) for one in others)
    time.sleep(SHORT + 0.2)
    with ThreadPoolExecutor(len(others)) as pool:
        answers = list(pool.map(lambda one: [one.take(name) for name in KEYS], others))
    assert [sum(column) for column in zip(*answers, strict=True)] == [1] * len(KEYS)
    for one, took in zip(others, answers, strict=True):
        assert [one.is_held(name) for name in KEYS] == took
    for one in others:
        one.close()
    assert list(others[0].remote.entries(LEASES)) == []


def test_one_that_was_late_does_not_come_back(client: Make) -> None:
    late, other = client(SHORT), client(SHORT)
    assert late.take(NAME)
    late.be_late()
    assert not late.is_held(NAME)
    assert not other.take(NAME)
    # It takes another lease, and by that gets a new heartbeat.
    assert late.take(KEYS[0])
    time.sleep(SHORT + 0.2)
    assert other.take(NAME)
    assert not late.is_held(NAME)
    assert not late.take(NAME)
    # It may be another's by now.
    late.release(NAME)
    assert other.is_held(NAME)
    assert not late.take(NAME)
    assert other.is_taken(NAME)
    other.release(NAME)
    assert not other.is_taken(NAME)
    assert late.take(NAME)
    assert late.is_held(NAME)
    assert late.is_held(KEYS[0])


def test_one_that_was_late_may_take_its_own_anew(client: Make) -> None:
    late = client(SHORT)
    assert late.take(NAME)
    late.be_late()
    time.sleep(SHORT + 0.2)
    assert late.take(NAME)
    assert late.is_held(NAME)
    late.release(NAME)
    assert list(late.remote.entries(LEASES)) == []


def test_leases_of_one_that_is_gone_do_not_count(client: Make) -> None:
    gone, other = client(), client()
    assert gone.take(NAME)
    gone.beats.close()
    assert other.take(NAME)
    assert not other.is_taken(KEYS[0])


def test_what_is_released_meanwhile_is_not_taken_over(
    client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a third one could make the first number anew, and there would be two holders."""
    dead, other, third = client(SHORT), client(SHORT), client(SHORT)
    assert dead.take(NAME)
    dead.die()
    time.sleep(SHORT + 0.2)
    create = other.remote.create

    def between(name: str, data: bytes) -> bool:
        if name == f"{NAME}.1":
            other.remote.delete(f"{NAME}.0")
            assert third.take(NAME)
        return create(name, data)

    monkeypatch.setattr(other.remote, "create", between)
    assert not other.take(NAME)
    assert not other.is_held(NAME)
    assert [e.name for e in third.remote.entries(LEASES)] == [f"{NAME}.0"]


def test_what_the_dead_have_left_is_not_deleted_later(
    client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another may have taken the next number over it meanwhile."""
    dead, one, other, third = (client(SHORT) for _ in range(4))
    assert dead.take(NAME)
    dead.die()
    time.sleep(SHORT + 0.2)
    assert one.take(NAME)

    def cut_off(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(store: Any, path: str, *values: Any, **options: Any) -> Any:
            if path == f"{NAME}.0":
                raise ConnectionError("nobody answers there")
            return ask(store, path, *values, **options)

        return asked

    with monkeypatch.context() as patched:
        patched.setattr(obstore, "delete", cut_off(obstore.delete))
        patched.setattr(obstore, "put", cut_off(obstore.put))
        one.release(NAME)
    deadline = time.monotonic() + 10
    while not other.take(NAME):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(SHORT)
    assert not third.take(NAME)
    assert other.is_held(NAME)


def test_a_number_that_could_not_be_deleted_stays_below_ours(
    client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who is on the way over it would hold one, and who makes the first number another."""
    dead, other, one, slow, third = (client(SHORT) for _ in range(5))
    assert dead.take(NAME)
    dead.die()
    time.sleep(SHORT + 0.2)
    assert other.take(NAME)
    other.die()
    time.sleep(SHORT + 0.2)
    assert one.take(NAME)
    delete, create = obstore.delete, slow.remote.create

    def fail(store: Any, path: str) -> None:
        if path == f"{NAME}.1":
            raise ConnectionError("nobody answers there")
        delete(store, path)

    def between(name: str, data: bytes) -> bool:
        if name == f"{NAME}.2":
            one.release(NAME)
            assert third.take(NAME)
        return create(name, data)

    monkeypatch.setattr(obstore, "delete", fail)
    monkeypatch.setattr(slow.remote, "create", between)
    assert not slow.take(NAME)
    assert third.is_held(NAME)
    # What is left goes with a beat.
    deadline = time.monotonic() + 10
    while one.remote.read(f"{NAME}.2") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_could_not_be_deleted_goes_in_the_end(
    client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = client()
    assert one.take(NAME)

    def cut_off(*_: object) -> None:
        raise ConnectionError("nobody answers there")

    with monkeypatch.context() as patched:
        patched.setattr(obstore, "delete", cut_off)
        one.release(NAME)
    assert [e.name for e in one.remote.entries(LEASES)] == [f"{NAME}.0"]
    one.beats.close()
    assert list(one.remote.entries(LEASES)) == []


def test_what_was_released_though_the_answer_was_lost_is_another_s(
    client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = (client(SHORT) for _ in range(3))
    assert one.take(NAME)
    delete = obstore.delete

    def lose(store: Any, path: str) -> None:
        delete(store, path)
        assert other.take(NAME)
        raise ConnectionError("the connection broke off")

    with monkeypatch.context() as patched:
        patched.setattr(obstore, "delete", lose)
        one.release(NAME)
    for _ in range(2):
        assert other.remote.read(f"{NAME}.0") == other.beats.name().encode()
        assert not third.take(NAME)
        # A beat of it comes.
        time.sleep(SHORT / 2)


@pytest.mark.parametrize("numbers", [range(3), range(1, 3), [0, 2], range(MOST)])
def test_what_the_dead_have_left_is_cleared(client: Make, numbers: Iterable[int]) -> None:
    one, holder = client(), client()
    for number in numbers:
        one.remote.replace(f"{NAME}.{number}", f"{HEARTBEATS}/{'ab' * 16}".encode())
    one.clear(NAME, max(numbers))
    assert list(one.remote.entries(LEASES)) == []
    assert holder.take(NAME)
    one.clear(NAME, 0)
    assert not one.take(NAME)
    assert [e.name for e in one.remote.entries(LEASES)] == [f"{NAME}.0"]


@pytest.mark.parametrize(
    "text", [b"", b"0123456789abcdef" * 2, b"v2/" + b"heartbeats/", b"x" * (LONGEST + 1)]
)
def test_what_names_no_heartbeat_counts_by_its_own_age(client: Make, text: bytes) -> None:
    one, other = client(SHORT), client(SHORT)
    one.remote.replace(f"{NAME}.0", text)
    assert not one.take(NAME)
    assert one.is_taken(NAME)
    time.sleep(SHORT * 0.7)
    # An older version renews its lease itself.
    one.remote.replace(f"{NAME}.0", text)
    time.sleep(SHORT * 0.7)
    assert not one.take(NAME)
    time.sleep(SHORT * 0.7)
    assert not one.is_taken(NAME)
    assert one.take(NAME)
    assert not other.take(NAME)
