"""Heartbeats: objects that count while their writer is alive."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.ml.transfer.claims.heartbeats import SECONDS, VARIABLE, Heartbeats, duration
from olivebuild.ml.transfer.remote import Entry, Remote


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote((tmp_path / "remote").as_uri())


def begin(beats: Heartbeats, remote: Remote, name: str) -> None:
    remote.replace(name, b"text")
    beats.keep(name, b"text")


def entry(remote: Remote, name: str) -> Entry:
    one = remote.entry(name)
    assert one
    return one


def test_one_is_written_again_until_it_is_ended(remote: Remote) -> None:
    beats = Heartbeats(remote, 0.6)
    begin(beats, remote, "a")
    first = entry(remote, "a")
    time.sleep(0.8)
    assert beats.counts(entry(remote, "a"))
    assert beats.is_alive("a")
    # It is the first time of writing that is too long ago.
    assert not beats.counts(first)
    beats.end("a")
    assert remote.entry("a") is None
    assert not beats.is_alive("a")
    time.sleep(0.3)
    assert remote.entry("a") is None
    beats.close()


def test_one_whose_writer_is_dead_counts_no_more(remote: Remote) -> None:
    remote.replace("a", b"text")
    beats = Heartbeats(remote, 0.2)
    assert beats.counts(entry(remote, "a"))
    time.sleep(0.3)
    assert not beats.counts(entry(remote, "a"))


def test_close_ends_all(remote: Remote) -> None:
    beats = Heartbeats(remote, 60)
    for name in ("a/1", "a/2"):
        begin(beats, remote, name)
    beats.close()
    assert list(remote.entries("a/")) == []


def test_one_that_was_late_is_not_written_again(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was suspended does not come back to what others have taken over."""
    beats = Heartbeats(remote, 0.6)
    begin(beats, remote, "a")
    monkeypatch.setattr(
        "olivebuild.ml.transfer.claims.heartbeats._clock", lambda: time.monotonic() + 1e9
    )
    before = entry(remote, "a")
    assert not beats.is_alive("a")
    time.sleep(0.5)
    assert entry(remote, "a") == before
    beats.close()


@pytest.mark.parametrize(("text", "seconds"), [("", SECONDS), ("0", 0.0), ("2.5", 2.5)])
def test_how_long_it_counts(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert duration() == seconds


@pytest.mark.parametrize("text", ["long", "-1", "nan", "inf"])
def test_what_is_no_duration(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InputError, match="no duration of leases"):
        duration()
