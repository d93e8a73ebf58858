"""Reads and writes at an offset, also on systems that have no call for it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from olivebuild.core.fs.positioned import pread, pwrite


@pytest.mark.parametrize("system", ["this", "one without such calls"])
def test_threads_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    if system != "this":
        for name in ("pread", "pwrite"):
            monkeypatch.delattr(os, name, raising=False)
    handle = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
    try:
        pieces = [bytes([65 + number]) * 1000 for number in range(20)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: pwrite(handle, pieces[n], 1000 * n), reversed(range(20))))
            assert list(pool.map(lambda n: pread(handle, 1000, 1000 * n), range(20))) == pieces
        assert pread(handle, 10, 19_995) == b"TTTTT"
        assert pread(handle, 10, 20_000) == b""
    finally:
        os.close(handle)
