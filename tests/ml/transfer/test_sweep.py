"""Sweeps of a remote cache: what goes and what stays, and uploads that come between."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import obstore
import pytest

from olivebuild.cache.key import Part, key_of
from olivebuild.cache.remote_records import (
    RemoteBlob,
    RemoteResult,
    Signature,
    blob_name,
    envelope,
    trace_name,
)
from olivebuild.cache.remote_sweeps import Limits, RemoteSweep
from olivebuild.cache.traces import Trace
from olivebuild.core import hashing
from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.claims import uploading
from olivebuild.ml.transfer.claims.heartbeats import HEARTBEATS, Heartbeats
from olivebuild.ml.transfer.claims.leases import LEASES, Leases, lease_of
from olivebuild.ml.transfer.claims.uploading import SWEEP, UPLOADS, UploadMarks
from olivebuild.ml.transfer.claims.uses import use_of
from olivebuild.ml.transfer.remote import Entry, Remote
from olivebuild.ml.transfer.sweep import DAY, Sweeper

MONTH = Limits(age=30 * DAY, delete=True)


class Bucket:
    """A folder as a remote cache, with objects of any age."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.remote = Remote(root.as_uri())

    def result(self, name: str, blobs: list[str], days: float) -> str:
        """Put a result of some blobs there; return its key. All are so many days old."""
        parts = (Part("step", "name", name),)
        key = key_of(parts)
        records = tuple(
            RemoteBlob(digest=self.blob(text, days), size=len(text), sha256="0" * 64)
            for text in blobs
        )
        trace = Trace(key, "command", parts, {"": "0" * 32}, manifest=records[0].digest)
        body = RemoteResult(trace=trace, blobs=records).body()
        self.put(trace_name(key), envelope(body, Signature()), days)
        return key

    def blob(self, text: str, days: float) -> str:
        digest = hashing.of_bytes(text.encode())
        self.put(blob_name(digest), text.encode(), days)
        return digest

    def put(self, name: str, data: bytes, days: float) -> None:
        """Put an object there, unless there is an older one."""
        if not (self.root / name).exists():
            self.remote.replace(name, data)
        then = time.time() - days * DAY
        os.utime(self.root / name, (then, then))

    def sweep(self, limits: Limits = MONTH) -> RemoteSweep:
        sweeper = Sweeper(self.remote, Heartbeats(self.remote))
        try:
            return sweeper.run(limits)
        finally:
            sweeper.close()

    def has(self, key: str) -> bool:
        return (self.root / trace_name(key)).exists()

    def blobs(self) -> set[str]:
        files = (p for p in self.root.glob("v1/blobs/??/*") if p.is_file())
        return {p.read_text() for p in files}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(uploading, "POLL", 0.02)
    return Bucket(tmp_path / "remote")


def test_what_was_not_used_for_long_goes_with_what_no_other_has(bucket: Bucket) -> None:
    old = bucket.result("old", ["a", "shared"], 40)
    new = bucket.result("new", ["shared", "b"], 5)
    used = bucket.result("used", ["c"], 50)
    bucket.put(use_of(used), b"", 3)
    bucket.put(use_of(old), b"", 31)
    sweep = bucket.sweep(Limits(age=30 * DAY))
    assert ([r.key for r in sweep.results], sweep.freed, sweep.kept) == ([old], 1, 2)
    assert bucket.has(old)
    assert bucket.blobs() == {"a", "shared", "b", "c"}
    assert [r.key for r in bucket.sweep().results] == [old]
    assert [bucket.has(key) for key in (old, new, used)] == [False, True, True]
    assert bucket.blobs() == {"shared", "b", "c"}
    assert not (bucket.root / use_of(old)).exists()
    assert (bucket.root / use_of(used)).exists()
    assert not list(bucket.remote.entries(LEASES))
    assert not list(bucket.remote.entries(HEARTBEATS))
    assert bucket.sweep().results == ()


def test_to_a_size_the_least_recently_used_go_first(bucket: Bucket) -> None:
    keys = [bucket.result(str(days), [str(days) * 10], days) for days in (3, 9, 1, 6)]
    sweep = bucket.sweep(Limits(age=30 * DAY, size=25, delete=True))
    assert [r.key for r in sweep.results] == [keys[1], keys[3]]
    # What was used within two days stays, whatever it is said to come to.
    sweep = bucket.sweep(Limits(age=0, size=0, delete=True))
    assert ([r.key for r in sweep.results], sweep.kept) == ([keys[0]], 1)
    assert bucket.has(keys[2])


def test_blobs_of_no_result_go_after_a_day_unless_they_are_claimed(bucket: Bucket) -> None:
    bucket.blob("left behind", 2)
    bucket.blob("on its way", 0.5)
    claimed = bucket.blob("claimed", 2)
    bucket.blob("claimed by the dead", 2)
    dead = json.dumps([hashing.of_bytes(b"claimed by the dead")]).encode()
    bucket.put(f"{UPLOADS}/{'ab' * 16}.{'cd' * 16}", dead, 2)
    beats = Heartbeats(bucket.remote)
    with UploadMarks(bucket.remote, beats, Leases(bucket.remote, beats), lambda: None).one(
        "ef" * 16, [claimed]
    ):
        sweep = bucket.sweep()
    assert sweep.loose == sweep.freed == len("left behind") + len("claimed by the dead")
    assert bucket.blobs() == {"on its way", "claimed"}
    assert list(bucket.remote.entries(UPLOADS)) == []


def harmed(bucket: Bucket, name: str, text: bytes) -> str:
    key = bucket.result(name, ["of " + name], 3)
    (bucket.root / trace_name(key)).write_bytes(text)
    bucket.put(trace_name(key), b"", 3)
    return key


def test_what_should_be_a_result_and_is_none_goes(bucket: Bucket) -> None:
    other = bucket.result("other", ["a"], 1)
    flipped = harmed(bucket, "flipped", b"no result at all")
    swapped = harmed(bucket, "swapped", (bucket.root / trace_name(other)).read_bytes())
    bucket.put("v1/blobs/no/readme.txt", b"notes", 100)
    bucket.put("v1/traces/no/readme.txt", b"notes", 100)
    sweep = bucket.sweep()
    assert (sweep.damaged, sweep.strange, sweep.kept) == (2, 1, 1)
    assert not bucket.has(flipped)
    assert not bucket.has(swapped)
    assert bucket.blobs() == {"a", "notes"}


def test_results_of_a_later_version_stop_it(bucket: Bucket) -> None:
    bucket.result("old", ["a"], 40)
    later = envelope(b'{"trace": {}, "more": 1}', Signature())
    key = harmed(bucket, "later", later)
    with pytest.raises(StoreError, match="later version") as e:
        bucket.sweep()
    assert key in str(e.value.where)
    assert bucket.blobs() == {"a", "of later"}


def test_one_sweeps_at_a_time(bucket: Bucket) -> None:
    bucket.result("old", ["a"], 40)
    lease = Leases(bucket.remote, Heartbeats(bucket.remote))
    assert lease.take(SWEEP)
    with pytest.raises(StoreError, match="somebody else sweeps"):
        bucket.sweep()
    # To look is always allowed.
    assert bucket.sweep(Limits(age=30 * DAY)).freed == 1
    lease.release(SWEEP)
    assert bucket.sweep().freed == 1


def test_without_leases_nothing_is_deleted(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    old = bucket.result("old", ["a"], 40)

    def ignoring(name: str, data: bytes) -> bool:
        bucket.remote.replace(name, data)
        return True

    monkeypatch.setattr(bucket.remote, "create", ignoring)
    with pytest.raises(StoreError, match="ignores If-None-Match"):
        bucket.sweep()
    assert bucket.has(old)


def test_a_sweep_that_lost_its_lease_stops(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    old = bucket.result("old", ["a"], 40)
    monkeypatch.setattr(Leases, "is_held", lambda *_: False)
    with pytest.raises(StoreError, match="held up for too long"):
        bucket.sweep()
    assert bucket.has(old)


def test_what_is_left_of_the_dead_goes(bucket: Bucket) -> None:
    bucket.put(f"{lease_of('ab' * 16)}.0", b"", 2)
    bucket.put(f"{lease_of('cd' * 16)}.0", b"", 0)
    bucket.put(use_of("ab" * 16), b"", 2)
    bucket.sweep()
    assert [e.name for e in bucket.remote.entries("v1/leases/cd/")] != []
    assert list(bucket.remote.entries("v1/leases/ab/")) == []
    assert list(bucket.remote.entries("v1/uses/")) == []


def test_what_is_old_stays_while_its_heartbeat_counts(bucket: Bucket) -> None:
    """A step may take days, and what it holds is not written again."""
    blob = bucket.blob("claimed", 3)
    living, dead = Heartbeats(bucket.remote), Heartbeats(bucket.remote)
    leases, others = Leases(bucket.remote, living), Leases(bucket.remote, dead)
    held, taken_over, left = (lease_of(letter * 32) for letter in "abc")
    assert leases.take(held)
    assert others.take(taken_over)
    assert others.take(left)
    dead._ended.set()
    bucket.put(dead.name(), b"", 2)
    bucket.put(f"{HEARTBEATS}/{'ab' * 16}", b"", 0.5)
    assert leases.take(taken_over)
    for name in (f"{held}.0", f"{taken_over}.0", f"{taken_over}.1", f"{left}.0"):
        bucket.put(name, b"", 2)
    with UploadMarks(bucket.remote, living, leases, lambda: None).one("ef" * 16, [blob]) as check:
        (mark,) = bucket.remote.entries(UPLOADS)
        bucket.put(mark.name, b"", 2)
        bucket.sweep()
        check()
        assert bucket.blobs() == {"claimed"}
        assert [e.name for e in bucket.remote.entries(UPLOADS)] == [mark.name]
    names = {entry.name for entry in bucket.remote.entries(LEASES)}
    # Without the number of the dead another could be the holder beside the one that holds the next.
    assert names == {f"{held}.0", f"{taken_over}.0", f"{taken_over}.1"}
    assert leases.is_held(held)
    assert leases.is_held(taken_over)
    hearts = {entry.name for entry in bucket.remote.entries(HEARTBEATS)}
    assert hearts == {living.name(), f"{HEARTBEATS}/{'ab' * 16}"}
    living.close()


@pytest.mark.parametrize("when", ["listed", "deleted"])
def test_what_is_taken_over_meanwhile_has_one_holder(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The number of the dead that is below a lease stays, or there is no lease above it."""
    name = lease_of("ab" * 16)
    bucket.put(f"{name}.0", f"{HEARTBEATS}/{'cd' * 16}".encode(), 2)
    one, other = (Leases(remote, Heartbeats(remote)) for remote in (Remote(bucket.remote.url),) * 2)
    entries, delete = bucket.remote.entries, obstore.delete
    took: list[bool] = []

    def listed(folder: str) -> list[Entry]:
        found = list(entries(folder))
        if folder == f"{LEASES}/" and not took:
            took.append(one.take(name))
        return found

    def deleted(store: Any, path: str) -> None:
        if path == f"{name}.0" and not took:
            took.append(one.take(name))
        delete(store, path)

    if when == "listed":
        monkeypatch.setattr(bucket.remote, "entries", listed)
    else:
        monkeypatch.setattr(obstore, "delete", deleted)
    bucket.sweep()
    assert len(took) == 1
    assert other.take(name) is not took[0]


def test_an_upload_that_begins_meanwhile_waits_and_is_whole(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found a blob there that the sweep is about to delete."""
    bucket.result("old", ["shared", "a"], 40)
    waiting = threading.Event()
    threads: list[threading.Thread] = []
    keys: list[str] = []
    beats = Heartbeats(bucket.remote)
    marks = UploadMarks(bucket.remote, beats, Leases(bucket.remote, beats), waiting.set)
    delete = Sweeper._delete

    def upload() -> None:
        with marks.one("ab" * 16, [hashing.of_bytes(b"shared")]):
            if "shared" not in bucket.blobs():
                bucket.blob("shared", 0)
            keys.append(bucket.result("new", ["shared", "b"], 0))

    def between(sweeper: Sweeper, names: list[str]) -> None:
        if not threads:
            threads.append(threading.Thread(target=upload))
            threads[0].start()
            assert waiting.wait(10)
        delete(sweeper, names)

    monkeypatch.setattr(Sweeper, "_delete", between)
    assert bucket.sweep().freed == len("shareda")
    threads[0].join(10)
    assert bucket.has(keys[0])
    assert bucket.blobs() == {"shared", "b"}


def test_a_sweep_that_is_killed_leaves_no_result_without_its_blobs(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = bucket.result("old", ["a", "b"], 40)
    delete, count = bucket.remote.delete, 0

    def killed(name: str) -> Any:
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt
        delete(name)

    with monkeypatch.context() as patched:
        for method in ("delete", "delete_once"):
            patched.setattr(bucket.remote, method, killed)
        with pytest.raises(KeyboardInterrupt):
            bucket.sweep()
    assert not bucket.has(old)
    (bucket.root / f"{SWEEP}.0").unlink()
    bucket.sweep()
    assert bucket.blobs() == set()
