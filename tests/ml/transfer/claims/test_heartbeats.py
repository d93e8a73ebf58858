"""Heartbeats: objects that count while their writer is alive."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.ml.transfer.claims import heartbeats
from olivebuild.ml.transfer.claims.heartbeats import (
    HEARTBEATS,
    NOBODYS,
    SECONDS,
    VARIABLE,
    Heartbeats,
    duration,
    heartbeat_in,
)
from olivebuild.ml.transfer.remote import Entry, Remote


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote((tmp_path / "remote").as_uri())


def entry(remote: Remote, name: str) -> Entry:
    one = remote.entry(name)
    assert one
    return one


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_is_written_again_until_it_is_closed(remote: Remote) -> None:
    beats, other = Heartbeats(remote, 0.6), Heartbeats(remote, 0.6)
    name = beats.name()
    first = entry(remote, name)
    time.sleep(0.8)
    assert beats.name() == heartbeat_in(name.encode()) == name
    assert beats.is_alive(name)
    assert other.counts(name)
    # It is the first time of writing that is too long ago.
    assert not other.is_fresh(first)
    beats.close()
    assert remote.entry(name) is None
    assert not beats.is_alive(name)
    time.sleep(0.3)
    assert remote.entry(name) is None
    other.close()
    assert list(remote.entries(HEARTBEATS)) == []


def test_one_whose_writer_is_dead_counts_no_more(remote: Remote) -> None:
    name = f"{HEARTBEATS}/{'ab' * 16}"
    remote.replace(name, b"1")
    beats = Heartbeats(remote, 0.4)
    assert beats.counts(name)
    time.sleep(0.5)
    assert not beats.counts(name)
    # Its writer does not do that.
    remote.replace(name, b"2")
    assert not beats.counts(name)
    assert not beats.counts(f"{HEARTBEATS}/{'cd' * 16}")
    assert not beats.counts("")
    beats.close()


def test_many_looks_at_once_are_one(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Heartbeats(remote), Heartbeats(remote)
    alive, dead = one.name(), f"{HEARTBEATS}/{'ab' * 16}"
    other.name()
    looks: Counter[str] = Counter()
    look = remote.entry

    def counted(name: str) -> Entry | None:
        looks[name] += 1
        time.sleep(0.05)
        return look(name)

    monkeypatch.setattr(remote, "entry", counted)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(other.counts, [alive, dead] * 50))
    assert answers == [True, False] * 50
    assert looks == {alive: 1, dead: 1}
    one.close()
    other.close()


def test_one_that_was_late_is_not_written_again(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was suspended does not come back to what others have taken over."""
    beats = Heartbeats(remote, 0.6)
    name = beats.name()
    clock, shift = heartbeats._clock, 1e9
    monkeypatch.setattr(heartbeats, "_clock", lambda: clock() + shift)
    before = entry(remote, name)
    assert not beats.is_alive(name)
    time.sleep(0.5)
    assert entry(remote, name) == before
    other = beats.name()
    assert other != name
    shift = 0.0
    assert not beats.is_alive(name)
    beats.close()


def test_one_whose_writing_took_too_long_is_not_there_again(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = Heartbeats(remote, 0.6)
    name = beats.name()
    replace = remote.replace

    def slowly(name: str, data: bytes) -> None:
        time.sleep(0.8)
        replace(name, data)

    monkeypatch.setattr(remote, "replace", slowly)
    wait_until(lambda: remote.entry(name) is None)
    assert not beats.is_alive(name)
    beats.close()


def test_one_that_can_not_be_written_is_late_though_it_can_be_read(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there from before is not taken for what was to be written."""
    monkeypatch.setattr("olivebuild.ml.transfer.remote.PAUSE", 0.001)
    beats = Heartbeats(remote, 0.6)
    name = beats.name()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("it is full")

    monkeypatch.setattr(remote, "_put_small", refuse)
    assert remote.read(name)
    wait_until(lambda: not beats.is_alive(name))
    beats.close()


def test_who_may_not_write_tries_once_for_all_that_ask(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def refuse(*_: object) -> None:
        nonlocal count
        count += 1
        raise PermissionError("it may only be read")

    beats = Heartbeats(remote)
    monkeypatch.setattr(remote, "replace", refuse)
    for _ in range(3):
        with pytest.raises(PermissionError):
            beats.name()
    assert count == 1
    monkeypatch.setattr(heartbeats, "RETRY", 0.0)
    monkeypatch.undo()
    monkeypatch.setattr(heartbeats, "RETRY", 0.0)
    assert remote.entry(beats.name())
    beats.close()


def test_what_can_not_be_deleted_is_made_nobodys(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = Heartbeats(remote, 0.6)
    name = beats.name()
    remote.replace("a", name.encode())
    replace = remote.replace

    def refuse(*_: object) -> None:
        raise PermissionError("it may not be deleted")

    def cut_off(name: str, data: bytes) -> None:
        if name == "a":
            raise ConnectionError("nobody answers there")
        replace(name, data)

    monkeypatch.setattr(remote, "delete_once", refuse)
    monkeypatch.setattr(remote, "replace", cut_off)
    beats.end("a", name.encode())
    assert remote.read("a") == name.encode()
    monkeypatch.setattr(remote, "replace", replace)
    wait_until(lambda: remote.read("a") == NOBODYS)
    # What is wanted again is left alone.
    remote.replace("a", name.encode())
    monkeypatch.setattr(remote, "replace", cut_off)
    beats.end("a", name.encode())
    beats.keep("a")
    monkeypatch.setattr(remote, "replace", replace)
    time.sleep(0.5)
    assert beats.is_alive(name)
    assert remote.read("a") == name.encode()
    beats.close()


def test_what_is_another_s_by_now_is_not_made_nobodys(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = Heartbeats(remote, 0.3)
    name = beats.name()
    remote.replace("a", b"others")

    def refuse(*_: object) -> None:
        raise PermissionError("it may not be deleted")

    monkeypatch.setattr(remote, "delete_once", refuse)
    beats.end("a", name.encode())
    beats.end_later("a", name.encode())
    time.sleep(0.3)
    assert remote.read("a") == b"others"
    beats.close()


class Clock:
    """The clock of a store, which is put forward and back."""

    def __init__(self, root: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift = 0.0
        replace = remote.replace

        def shifted(name: str, data: bytes) -> None:
            replace(name, data)
            then = time.time() + self.shift
            os.utime(root / name, (then, then))

        monkeypatch.setattr(remote, "replace", shifted)


@pytest.fixture
def clock(tmp_path: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(tmp_path / "remote", remote, monkeypatch)


def test_a_clock_that_is_put_back_is_read_anew(remote: Remote, clock: Clock) -> None:
    beats, other = Heartbeats(remote, 0.6), Heartbeats(remote, 0.6)
    beats.name()
    clock.shift = -1000.0
    name = other.name()
    time.sleep(0.3)
    assert beats.counts(name)
    other.close()
    beats.close()


def test_a_clock_that_is_put_forward_makes_nobody_dead(remote: Remote, clock: Clock) -> None:
    beats = Heartbeats(remote, 1.2)
    beats.name()
    living, dead = (f"{HEARTBEATS}/{letter * 32}" for letter in "ab")
    remote.replace(living, b"1")
    remote.replace(dead, b"1")
    clock.shift = 1000.0
    # It beats each 0.4 seconds, and so does the other one.
    time.sleep(0.6)
    assert beats.counts(living)
    remote.replace(living, b"2")
    time.sleep(1.4)
    remote.replace(living, b"3")
    assert beats.counts(living)
    assert not beats.counts(dead)
    beats.close()


def test_the_clock_goes_on_while_a_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS that is CLOCK_MONOTONIC, and time.monotonic() is another clock."""
    clocks = {1: 5.0, 7: 9.0}
    with monkeypatch.context() as patched:
        patched.setattr(time, "clock_gettime", clocks.__getitem__, raising=False)
        patched.setattr(time, "monotonic", lambda: 2.0)
        patched.setattr(time, "CLOCK_MONOTONIC", 1, raising=False)
        patched.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
        assert heartbeats._clock() == 9.0
        patched.delattr(time, "CLOCK_BOOTTIME")
        assert heartbeats._clock() == 5.0
        patched.delattr(time, "CLOCK_MONOTONIC")
        assert heartbeats._clock() == 2.0


@pytest.mark.parametrize(("text", "seconds"), [("", SECONDS), ("0", 0.0), ("2.5", 2.5)])
def test_how_long_it_counts(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert duration() == seconds


@pytest.mark.parametrize("text", ["long", "-1", "nan", "inf"])
def test_what_is_no_duration(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InputError, match="no duration of leases"):
        duration()
