"""Results as a remote cache holds them: read back, and no text that is anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from olivebuild.cache.key import Part, key_of
from olivebuild.cache.remote_records import (
    ELSEWHERE,
    RemoteBlob,
    RemoteResult,
    Signature,
    blobs_of,
    envelope,
    opened,
    shareable,
)
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace

PARTS = (Part("step", "kind", "command"), Part("file", "a", "0" * 32))
KEY = key_of(PARTS)
BLOB = RemoteBlob(digest="1" * 32, size=3, sha256="2" * 64)


def result(**fields: object) -> RemoteResult:
    trace = Trace(KEY, "command", PARTS, {"": "3" * 32}, manifest="1" * 32)
    return RemoteResult(trace=structs.replace(trace, **fields), blobs=(BLOB,))


def test_a_result_is_read_back() -> None:
    signature = Signature(signer="ed25519:x", time=1.5, signature="y")
    body, seen = opened(envelope(result().body(), signature))
    assert seen == signature
    assert RemoteResult.from_body(body, KEY) == result()


@pytest.mark.parametrize("at", range(0, 300, 7))
def test_a_text_with_a_flipped_bit_is_none(at: int) -> None:
    text = bytearray(envelope(result().body(), Signature()))
    text[at] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        opened(bytes(text))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"key": "4" * 32}, "another key's"),
        ({"parts": PARTS[:1]}, "another key's"),
        ({"manifest": "5" * 32}, "manifest is not among"),
        ({"manifest": "../../etc"}, "manifest"),
    ],
)
def test_a_result_under_another_key_is_none(fields: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RemoteResult.from_body(result(**fields).body(), KEY)


def test_a_folder_of_this_machine_is_not_shared() -> None:
    trace = result(reference="/home/someone/models/base").trace
    assert shareable(trace).reference == ELSEWHERE
    assert shareable(result().trace).reference == ""


def test_the_blobs_of_a_result_are_its_manifest_and_what_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.txt").write_text("some text")
    manifest, blob = store.put_folder(folder)
    sizes = blobs_of(store, result(manifest=blob).trace)
    assert next(iter(sizes)) == blob
    assert sizes[manifest.files[0].digest] == len("some text")
    assert len(sizes) == 2
