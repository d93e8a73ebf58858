"""Marks of use in a remote cache: object stores do not tell when something was read last.

v1/uses/ab/<key>      written when the result of a key was looked for and was there, once a day
"""

from __future__ import annotations

from contextlib import suppress

from olivebuild.cache.remote_records import LAYOUT
from olivebuild.ml.transfer.claims.heartbeats import Heartbeats
from olivebuild.ml.transfer.remote import Remote

USES = f"{LAYOUT}/uses"
DAY = 86400.0


def use_of(key: str) -> str:
    """Return the name of a key's mark."""
    return f"{USES}/{key[:2]}/{key}"


class Uses:
    """Marks of use by one process."""

    def __init__(self, remote: Remote, heartbeats: Heartbeats) -> None:
        self._remote = remote
        self._heartbeats = heartbeats

    def note(self, key: str) -> None:
        """Mark a result as used.

        Who may only read the remote cache can't, and is not told: what he reads is none the worse.
        """
        if self._remote.read_only:
            return
        with suppress(Exception):
            entry = self._remote.entry(use_of(key))
            if entry is None or self._heartbeats.age(entry) > DAY:
                self._remote.replace(use_of(key), b"")
