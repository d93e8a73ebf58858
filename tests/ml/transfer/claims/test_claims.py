"""Claims on keys: whose result is waited for, and which result is no reason to wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.claims.claims import ELSEWHERE, HELD, MADE, Claims
from olivebuild.ml.transfer.claims.heartbeats import VARIABLE
from olivebuild.ml.transfer.remote import Remote

KEY = "ab" * 16


class Client:
    """A client that reads results as text."""

    def __init__(self, root: Path) -> None:
        self.remote = Remote((root / "remote").as_uri())
        self.claims = Claims(self.remote, root / "cache", self.usable, lambda: None)

    def usable(self, key: str) -> str:
        text = self.remote.read(f"results/{key}")
        if text == b"bad":
            raise StoreError("it is not signed", hint="it is made here")
        return text.decode() if text else ""


@pytest.fixture
def clients(tmp_path: Path) -> tuple[Client, Client]:
    return Client(tmp_path), Client(tmp_path)


def test_one_makes_it_and_the_other_waits_for_it(clients: tuple[Client, Client]) -> None:
    one, other = clients
    assert one.claims.lease(KEY) == HELD
    assert other.claims.lease(KEY) == ELSEWHERE
    one.remote.replace(f"results/{KEY}", b"good")
    # The result counts, though the lease is still held.
    assert other.claims.lease(KEY) == MADE
    one.claims.release(KEY)
    assert other.claims.lease(KEY) == MADE
    assert one.claims.lease(KEY) == MADE


def test_what_can_not_be_used_keeps_nobody_from_making_it(clients: tuple[Client, Client]) -> None:
    one, other = clients
    one.remote.replace(f"results/{KEY}", b"bad")
    assert one.claims.lease(KEY) == HELD
    assert other.claims.lease(KEY) == ELSEWHERE
    one.claims.release(KEY)
    # This one looks right, and was no use: its blobs are damaged.
    one.remote.replace(f"results/{KEY}", b"of lost blobs")
    other.claims.refuse(KEY, "of lost blobs")
    assert other.claims.lease(KEY) == HELD
    assert one.claims.lease(KEY) == MADE
    other.remote.replace(f"results/{KEY}", b"made again")
    other.claims.release(KEY)
    assert other.claims.lease(KEY) == MADE


def test_close_gives_back_what_is_held(clients: tuple[Client, Client]) -> None:
    one, other = clients
    assert one.claims.lease(KEY) == HELD
    one.claims.close()
    assert other.claims.lease(KEY) == HELD


def test_leases_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    clients = [Client(tmp_path), Client(tmp_path)]
    assert [one.claims.lease(KEY) for one in clients] == [HELD, HELD]
    assert not (tmp_path / "remote" / "v1").exists()
