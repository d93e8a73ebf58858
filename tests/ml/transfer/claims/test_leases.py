"""Leases: one holder at a time, and another when the holder has died."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from olivebuild.ml.transfer.claims.heartbeats import Heartbeats
from olivebuild.ml.transfer.claims.leases import LEASES, MOST, Leases, lease_of
from olivebuild.ml.transfer.remote import Remote

KEY = "ab" * 16
NAME = lease_of(KEY)

Client = Callable[..., Leases]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Return clients of one folder."""

    def make(seconds: float = 60.0) -> Leases:
        remote = Remote((tmp_path / "remote").as_uri())
        return Leases(remote, Heartbeats(remote, seconds))

    return make


def test_of_many_at_once_one_has_it(client: Client) -> None:
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


def test_of_many_one_takes_over_from_the_dead(client: Client, tmp_path: Path) -> None:
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


def test_where_all_are_dead_nobody_waits(client: Client, tmp_path: Path) -> None:
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
