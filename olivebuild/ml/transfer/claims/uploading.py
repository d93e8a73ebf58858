"""Marks of uploads in a remote cache, which a sweep of it takes heed of.

    v1/uploads/<key>.<client>     the blobs that an upload puts there, or has found there

An upload writes its mark, a heartbeat, and then looks whether a sweep goes on; a sweep takes its
lease, and then reads the marks. So one of the two sees the other, and no blob is deleted that a
trace will name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from olivebuild.cache.remote_records import LAYOUT
from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.claims.heartbeats import Heartbeats
from olivebuild.ml.transfer.claims.leases import LEASES, MOST, Leases
from olivebuild.ml.transfer.remote import Remote

UPLOADS = f"{LAYOUT}/uploads"
SWEEP = f"{LEASES}/sweep"
"""The lease of whoever sweeps."""
POLL = 1.0
PATIENCE = 600.0
"""How many seconds an upload waits for a sweep."""
HINT = "`olivebuild remote push` brings it there later"


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
        name = f"{UPLOADS}/{key}.{self._heartbeats.owner.decode()}"
        text = json.dumps(sorted(blobs)).encode()
        # No lease, but where there was none this shows whether the store keeps any.
        self._leases.create(name, text)
        self._heartbeats.keep(name, text)

        def check() -> None:
            if not self._heartbeats.is_alive(name):
                raise StoreError("the upload was held up for too long", hint=HINT)

        try:
            self._wait()
            yield check
        finally:
            self._heartbeats.end(name)

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._is_swept():
            if time.monotonic() > deadline:
                raise StoreError("the remote cache is being swept", hint=HINT)
            self._tell()
            time.sleep(POLL)

    def _is_swept(self) -> bool:
        for number in range(MOST):
            entry = self._remote.entry(f"{SWEEP}.{number}")
            if entry is None:
                return False
            if self._heartbeats.counts(entry):
                return True
        return False
