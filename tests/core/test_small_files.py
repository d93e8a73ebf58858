"""Small files that come from anyone: a long one is not read, and no nesting ends us."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.core.fs import small_files
from olivebuild.core.fs.small_files import check_size, parse_json, read_bytes, read_json, special


def test_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ä": [1]}', "utf-8")
    check_size(tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == {"ä": [1]}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "a.json")


def test_nesting_has_a_name() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json('{"a":' * 100_000)


def test_a_long_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "MOST", 1 << 20)
    file = tmp_path / "tokenizer.json"
    with open(file, "wb") as f:
        f.truncate((1 << 20) + 1)
    with pytest.raises(InputError, match=r"tokenizer.json has 1 MiB, which is more than"):
        check_size(file)
    with pytest.raises(ValueError, match="more than any such file needs"):
        read_bytes(file)


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes in folders")
def test_what_may_never_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    names = {name: special(os.stat(name).st_mode) for name in ("pipe", "socket", "/dev/null", ".")}
    assert list(names.values()) == ["a named pipe", "a socket", "a device", ""]
    for name in ("pipe", "/dev/null"):
        with pytest.raises(InputError, match="not a file"):
            check_size(Path(name))
        with pytest.raises(ValueError, match="not a file"):
            read_bytes(Path(name))
