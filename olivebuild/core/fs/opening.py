"""Opening files to read them, without waiting for a pipe in the place of one."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_at_once(path: str | Path) -> int:
    """Open whatever lies there. Raises OSError."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def open_handle(path: Path) -> int:
    """Open a file to read it.

    Raises OSError for what is none: who opens a pipe to read it waits for somebody who writes.
    """
    handle = open_at_once(path)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return handle


def open_file(path: Path) -> BufferedReader:
    """Open a file to read it. Raises OSError, also for what is no file."""
    return open(open_handle(path), "rb")


def read(path: Path) -> bytes:
    """All of a file of ours. Raises OSError."""
    with open_file(path) as f:
        return f.read()
