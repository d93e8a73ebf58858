"""Reads and writes at an offset of a file, so that several threads can share it."""

from __future__ import annotations

import os
import threading


def pread(file: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, size, offset)
    with _SEEKING:
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, size)


def pwrite(file: int, data: bytes | memoryview, offset: int) -> None:
    """All of `data`."""
    if hasattr(os, "pwrite"):
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written
        return
    with _SEEKING:
        os.lseek(file, offset, os.SEEK_SET)
        while data:
            data = data[os.write(file, data) :]


_SEEKING = threading.Lock()
"""For systems without positioned reads and writes."""
