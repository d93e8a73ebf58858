"""Places of remote caches: what each URL means, and objects that are written and read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.ml.transfer.remote import CHUNK, Remote


@pytest.mark.parametrize("size", [0, 10, CHUNK, CHUNK + 1])
def test_what_is_written_is_read(tmp_path: Path, size: int) -> None:
    remote, data = Remote((tmp_path / "remote").as_uri()), bytes(range(251)) * (size // 251 + 1)
    file = tmp_path / "file"
    file.write_bytes(data[:size])
    moved: list[int] = []
    assert remote.size("a/b") is None
    sha256 = remote.write("a/b", file, moved.append)
    assert sha256 == hashlib.sha256(data[:size]).hexdigest()
    assert remote.size("a/b") == size
    assert b"".join(bytes(piece) for piece in remote.pieces("a/b")) == data[:size]
    assert sum(moved) == (size if size > CHUNK else 0)


def test_a_small_object_is_made_once(tmp_path: Path) -> None:
    remote = Remote((tmp_path / "a folder").as_uri())
    assert remote.read("t/key") is None
    assert remote.create("t/key", b"first")
    assert not remote.create("t/key", b"second")
    assert remote.read("t/key") == b"first"


@pytest.mark.parametrize(
    "url", ["", "bucket/path", "file://host/path", "file:relative", "ftp://host/", "az://account"]
)
def test_a_url_that_is_no_place(url: str) -> None:
    with pytest.raises(InputError, match="no place for a remote cache") as e:
        Remote(url)
    assert "s3://BUCKET/PATH" in e.value.hint
