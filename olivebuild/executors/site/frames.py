"""Frames between a build and an agent: a line of JSON, and the bytes that it announces.

What arrives comes from another machine: its sizes are bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

MAGIC = b"olivebuild-agent 1\n"
"""The first line of an agent. What a login shell prints comes before it."""
MOST_BEFORE = 64 << 10
"""The most bytes that are skipped before it."""
MOST_LINE = 64 << 20
PIECE = 4 << 20
"""Bytes of a blob in one frame."""
MOST_BYTES = 2 * PIECE


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
