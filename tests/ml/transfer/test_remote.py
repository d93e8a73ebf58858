"""Places of remote caches: what each URL means, and objects that are written and read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.core.errors import Damaged, InputError, StoreError
from olivebuild.ml.transfer.remote import PART, Remote


@pytest.mark.parametrize("size", [0, 10, PART, PART + 1])
def test_what_is_written_is_read(tmp_path: Path, size: int) -> None:
    remote = Remote((tmp_path / "remote").as_uri())
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert remote.size("a/b") is None
    remote.write("a/b", size, lambda: iter([data[:PART], data[PART:]]))
    assert remote.size("a/b") == size
    assert b"".join(map(bytes, remote.pieces("a/b", 0, size))) == data
    if size > 1:
        assert b"".join(map(bytes, remote.pieces("a/b", size - 1, size))) == data[-1:]


def test_an_object_of_another_size_is_not_read(tmp_path: Path) -> None:
    remote = Remote((tmp_path / "remote").as_uri())
    assert remote.create("t/key", b"twelve bytes")
    with pytest.raises(StoreError, match="12 bytes instead of 13"):
        next(remote.pieces("t/key", 0, 13))
    with pytest.raises(StoreError, match="12 bytes, more than 11"):
        remote.read("t/key", limit=11)


def test_what_turns_out_to_be_wrong_is_not_there(tmp_path: Path) -> None:
    remote = Remote((tmp_path / "remote").as_uri())

    def parts() -> Iterator[bytes]:
        yield bytes(PART)
        raise Damaged("0" * 32, "is damaged")

    with pytest.raises(Damaged):
        remote.write("a/b", PART + 1, parts)
    assert remote.size("a/b") is None


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
