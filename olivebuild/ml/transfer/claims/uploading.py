"""Marks of uploads in a remote cache, which a sweep of it takes heed of.

    v1/uploads/<key>.<client>     the blobs that an upload puts there, or has found there

A mark counts while the heartbeat of its client does, and as long as one would after it was written
itself. An upload writes its mark, and then looks whether a sweep goes on; a sweep takes its lease,
and then reads the marks. So one of the two sees the other, and no blob is deleted that a trace will
name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from olivebuild.cache.remote_records import LAYOUT
from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.claims.heartbeats import HEARTBEATS, Heartbeats, heartbeat_in
from olivebuild.ml.transfer.claims.leases import LEASES, Leases
from olivebuild.ml.transfer.remote import Entry, Remote

UPLOADS = f"{LAYOUT}/uploads"
SWEEP = f"{LEASES}/sweep"
"""The lease of whoever sweeps."""
POLL = 1.0
PATIENCE = 600.0
"""How many seconds an upload waits for a sweep."""
HINT = "`olivebuild remote push` brings it there later"


def goes_on(mark: Entry, heartbeats: Heartbeats) -> bool:
    """Return whether the upload of a mark goes on, as far as is known."""
    client = mark.name.rpartition(".")[2]
    heartbeat = heartbeat_in(f"{HEARTBEATS}/{client}".encode())
    return heartbeats.is_fresh(mark) or heartbeats.counts(heartbeat)


class UploadMarks:
    """The uploads of one process."""

    def __init__(
        self,
        remote: Remote,
        heartbeats: Heartbeats,
        leases: Leases,
        tell: Callable[[], None],
    ) -> None:
        """`tell` is called again and again while an upload waits for a sweep."""
        self._remote = remote
        self._heartbeats = heartbeats
        self._leases = leases
        self._tell = tell

    @contextmanager
    def one(self, key: str, blobs: Iterable[str]) -> Iterator[Callable[[], None]]:
        """Upload a result; yield what to call before its trace is written.

        Raises StoreError where a sweep does not end, or did not see this upload for too long.
        """
        heartbeat = self._heartbeats.name()
        name = f"{UPLOADS}/{key}.{heartbeat.rpartition('/')[2]}"
        text = json.dumps(sorted(blobs)).encode()
        self._heartbeats.keep(name)
        # No lease, but where there was none this shows whether the store keeps any.
        if not self._leases.create(name, text):
            self._remote.replace(name, text)

        def check() -> None:
            if not self._heartbeats.is_alive(heartbeat):
                raise StoreError("the upload was held up for too long", hint=HINT)

        try:
            self._wait()
            yield check
        finally:
            self._heartbeats.end(name, text)

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._leases.is_taken(SWEEP):
            if time.monotonic() > deadline:
                raise StoreError("the remote cache is being swept", hint=HINT)
            self._tell()
            time.sleep(POLL)
