"""Marks of uploads: what a sweep sees of them, and that they wait for one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.claims import heartbeats, uploading
from olivebuild.ml.transfer.claims.heartbeats import Heartbeats
from olivebuild.ml.transfer.claims.leases import Leases
from olivebuild.ml.transfer.claims.uploading import SWEEP, UPLOADS, UploadMarks, goes_on
from olivebuild.ml.transfer.remote import Remote

KEY = "ab" * 16


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    monkeypatch.setattr(uploading, "POLL", 0.02)
    return Remote((tmp_path / "remote").as_uri())


def marks_in(
    remote: Remote, seconds: float = 60, tell: Callable[[], None] = lambda: None
) -> UploadMarks:
    beats = Heartbeats(remote, seconds)
    return UploadMarks(remote, beats, Leases(remote, beats), tell)


def test_a_mark_names_the_blobs_while_it_lasts(remote: Remote) -> None:
    marks = marks_in(remote)
    with marks.one(KEY, ["b" * 32, "a" * 32]) as check:
        check()
        (mark,) = remote.entries(UPLOADS)
        text = remote.read(mark.name)
        assert text
        assert json.loads(text) == ["a" * 32, "b" * 32]
    assert list(remote.entries(UPLOADS)) == []


def test_an_upload_waits_for_a_sweep(remote: Remote) -> None:
    sweep = Leases(remote, Heartbeats(remote))
    assert sweep.take(SWEEP)
    waited = threading.Event()
    marks = marks_in(remote, tell=waited.set)
    went_on = threading.Event()

    def upload() -> None:
        with marks.one(KEY, []):
            went_on.set()

    thread = threading.Thread(target=upload)
    thread.start()
    assert waited.wait(10)
    assert not went_on.is_set()
    sweep.release(SWEEP)
    thread.join(10)
    assert went_on.is_set()


def test_it_does_not_wait_for_ever(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "PATIENCE", 0.05)
    assert Leases(remote, Heartbeats(remote)).take(SWEEP)
    marks = marks_in(remote)
    with pytest.raises(StoreError, match="being swept"), marks.one(KEY, []):
        pass
    assert list(remote.entries(UPLOADS)) == []


def test_a_mark_that_nobody_saw_stops_the_upload(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = marks_in(remote)
    with marks.one(KEY, []) as check:
        monkeypatch.setattr(heartbeats, "_clock", lambda: time.monotonic() + 1e9)
        with pytest.raises(StoreError, match="held up"):
            check()


def test_a_mark_is_not_written_again_and_goes_on(remote: Remote) -> None:
    beats, other = Heartbeats(remote, 1.2), Heartbeats(remote, 1.2)
    marks = UploadMarks(remote, beats, Leases(remote, beats), lambda: None)
    with marks.one(KEY, ["b" * 32]) as check:
        (before,) = remote.entries(UPLOADS)
        time.sleep(1.4)
        assert list(remote.entries(UPLOADS)) == [before]
        assert not other.is_fresh(before)
        assert goes_on(before, other)
        check()
        beats._ended.set()
        time.sleep(1.4)
        assert not goes_on(before, other)
    other.close()


def test_what_was_left_of_an_upload_before_is_written_anew(remote: Remote) -> None:
    beats = Heartbeats(remote)
    marks = UploadMarks(remote, beats, Leases(remote, beats), lambda: None)
    client = beats.name().rpartition("/")[2]
    remote.replace(f"{UPLOADS}/{KEY}.{client}", b"[]")
    with marks.one(KEY, ["b" * 32]):
        (mark,) = remote.entries(UPLOADS)
        assert remote.read(mark.name) == json.dumps(["b" * 32]).encode()
    assert list(remote.entries(UPLOADS)) == []
