"""Opening files to read them: what is no file is an error, and nothing is waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from olivebuild.core.fs.opening import open_file, open_handle, read


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab\r\n\x1a")
    assert read(tmp_path / "a") == b"ab\r\n\x1a"
    with open_file(tmp_path / "a") as file:
        assert file.read(1) == b"a"
    handle = open_handle(tmp_path / "a")
    os.close(handle)


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe", "nothing"])
def test_what_is_no_file_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
        path = tmp_path / "pipe" if kind == "pipe" else path
    handles = len(os.listdir("/dev/fd"))
    with pytest.raises(OSError, match=r"not a file|No such file"):
        read(path)
    assert len(os.listdir("/dev/fd")) == handles
