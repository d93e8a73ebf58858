"""Blobs that a sweep of a remote cache leaves, since jobs of an exchange there need them.

No result names them yet. The texts are read without their secrets: what somebody else wrote there
keeps a few blobs, and does nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.exchange.records import MOST_TEXT, NUMBER, Segment, Task, blobs_in
from olivebuild.ml.transfer.remote import Entry, Remote


def blobs_of_jobs(remote: Remote, entries: Iterable[Entry]) -> set[str]:
    """Return the digests of the inputs of jobs, and of the outputs of those that have ended.

    `entries` are the objects of an exchange.
    """
    attempts: dict[str, list[str]] = {}
    for entry in entries:
        folder, _, name = entry.name.rpartition("/")
        if entry.size <= MOST_TEXT and (name == "task" or NUMBER.fullmatch(name)):
            attempts.setdefault(folder, []).append(name)
    blobs: set[str] = set()
    for folder, names in attempts.items():
        segments = [name for name in names if name != "task"]
        if "task" in names:
            blobs |= _digests(remote, f"{folder}/task")
        if segments:
            # The last one has the outcome, if any has.
            blobs |= _digests(remote, f"{folder}/{max(segments)}")
    return blobs


def _digests(remote: Remote, name: str) -> set[str]:
    try:
        text = remote.read(name, MOST_TEXT)
    except StoreError:
        return set()
    body = (text or b"").partition(b"\n")[2]
    try:
        return {blob.digest for blob in _blobs(body, is_task=name.endswith("/task"))}
    except ValueError:
        return set()


def _blobs(body: bytes, *, is_task: bool) -> tuple[RemoteBlob, ...]:
    """Raises ValueError."""
    text = Task.from_body(body).action if is_task else Segment.from_body(body).outcome
    return blobs_in(text) if text else ()
