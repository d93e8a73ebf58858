"""Results of equal inputs that differ between machines, each told once.

The first that came to a remote cache stays there, and who has made another keeps his own.
"""

from __future__ import annotations

import threading
from pathlib import Path

from olivebuild.cache.traces import Trace
from olivebuild.core import hashing, numerics
from olivebuild.core.fs.files import write_atomically

FILE = "remote-differences"
"""The file of the cache that says what was told: a line each."""
MOST = 10_000
LENGTH = 300


class Differences:
    """What was told of the remote cache at `url`, by a cache in `root`."""

    def __init__(self, root: Path, url: str) -> None:
        self._file = root / FILE
        self._url = url
        self._lock = threading.Lock()

    def told(self, trace: Trace, there: Trace) -> str:
        """Return how the remote cache's result differs from ours, in words.

        "" where it does not, or where that was told before. Raises OSError.
        """
        if dict(trace.outputs) == dict(there.outputs):
            return ""
        line = hashing.of_json([self._url, trace.key, dict(trace.outputs), dict(there.outputs)])
        with self._lock:
            lines = self._file.read_text("ascii").split() if self._file.exists() else []
            if line in lines:
                return ""
            write_atomically(self._file, "\n".join([*lines, line][-MOST:]).encode())
        return _cause(trace, there)


def _cause(trace: Trace, there: Trace) -> str:
    then, now = there.provenance.get("numerics"), trace.provenance.get("numerics")
    if not isinstance(then, dict) or not isinstance(now, dict):
        return "its step is not deterministic"
    settings = numerics.differing(then, {str(k): str(v) for k, v in now.items()})
    if not settings:
        return "made under the same numerics: its step is not deterministic"
    return f"made under other numerics: {'; '.join(settings)}"[:LENGTH]
