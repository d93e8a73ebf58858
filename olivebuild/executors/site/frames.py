"""Frames between a build and an agent: a line of JSON, and the bytes that it announces.

What arrives comes from another machine: its sizes are bounded.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

MAGIC = b"olivebuild-agent 1\n"
"""The first line of an agent. What a login shell prints comes before it."""
MOST_BEFORE = 64 << 10
"""The most bytes that are skipped before it."""
MOST_LINE = 64 << 20
PIECE = 4 << 20
"""The most bytes of a blob in one frame."""
SMALL_PIECE = 128 << 10
MOST_BYTES = 2 * PIECE
PULSE_SECONDS = 10.0
"""How often an agent says that it is still at work: a scheduler may take minutes."""


class Frame(NamedTuple):
    data: dict[str, Any]
    blob: bytes = b""


def skip_to_magic(stream: IO[bytes]) -> bool:
    """Read up to the first frame; return whether there is one."""
    left = MOST_BEFORE
    while left > 0 and (line := stream.readline(left)):
        if line == MAGIC:
            return True
        left -= len(line)
    return False


def write(stream: IO[bytes], data: Mapping[str, object], blob: bytes = b"") -> None:
    """Raises OSError where nobody reads any more."""
    line = json.dumps({**data, "bytes": len(blob)} if blob else data).encode()
    stream.write(line + b"\n" + blob)
    stream.flush()


def read(stream: IO[bytes]) -> Frame | None:
    """Return the next frame, None at the end.

    Raises ValueError for what is none, and for one that is cut off.
    """
    line = stream.readline(MOST_LINE)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise ValueError("a frame is cut off, or too long")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"no frame: {line[:80]!r}") from None
    count = data.pop("bytes", 0) if isinstance(data, dict) else None
    if not isinstance(count, int) or not 0 <= count <= MOST_BYTES:
        raise ValueError(f"no frame: {line[:80]!r}")
    blob = stream.read(count)
    if len(blob) < count:
        raise ValueError("a frame is cut off")
    return Frame(data, blob)


class Pulse:
    """A thread that writes a frame every few seconds while an answer takes long; a context."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._since: float | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Pulse:
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        with self._lock:
            self._since = time.monotonic()
        try:
            yield
        finally:
            # Nothing is written any more when the answer is.
            with self._lock:
                self._since = None

    def _beat(self) -> None:
        while not self._ended.wait(PULSE_SECONDS):
            with self._lock, contextlib.suppress(OSError, ValueError):
                if self._since and time.monotonic() - self._since > PULSE_SECONDS:
                    write(self._stream, {"id": None})
