"""The store: blobs go in complete, come out verified, and what is damaged never reaches a user."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged, StepError, StoreError
from olivebuild.core.hashing import of_bytes
from tests.formats.test_safetensors import WEIGHTS, write

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one in a folder, one executable."""
    found = tmp_path / "made"
    (found / "sub").mkdir(parents=True)
    (found / "a.txt").write_text("alpha")
    (found / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (found / "sub" / "run.sh").chmod(0o755)
    return found


def content(folder: Path) -> dict[str, tuple[bytes, bool]]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {
        p.relative_to(folder).as_posix(): (p.read_bytes(), bool(p.stat().st_mode & 0o100))
        for p in files
    }


def flip(path: Path, at: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_folder_comes_out_as_it_went_in(store: Store, folder: Path, tmp_path: Path) -> None:
    manifest, blob = store.put_folder(folder)
    store.restore(store.manifest(blob), tmp_path / "out")
    assert content(tmp_path / "out") == content(folder)
    assert store.manifest(blob) == manifest
    assert manifest.size == 5 + 10


def test_the_manifest_names_files_modes_sizes_and_digests(store: Store, folder: Path) -> None:
    manifest, _ = store.put_folder(folder)
    assert manifest.files == (
        Entry("a.txt", False, 5, of_bytes("alpha")),
        Entry("sub/run.sh", True, 10, of_bytes("#!/bin/sh\n")),
    )


def test_an_empty_file_is_stored_too(store: Store, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "empty").write_bytes(b"")
    manifest, _ = store.put_folder(tmp_path / "made")
    store.restore(manifest, tmp_path / "out")
    assert content(tmp_path / "out") == {"empty": (b"", False)}


def test_only_the_executable_bit_of_a_mode_counts(store: Store, folder: Path) -> None:
    before, _ = store.put_folder(folder)
    (folder / "a.txt").chmod(0o600)
    assert store.put_folder(folder)[0].digest == before.digest
    (folder / "a.txt").chmod(0o700)
    assert store.put_folder(folder)[0].digest != before.digest


@pytest.mark.parametrize(
    "change", [{"name": "b.txt"}, {"executable": True}, {"size": 6}, {"digest": "0" * 32}]
)
def test_the_digest_of_a_manifest_covers_all_that_a_file_is(change: dict[str, Any]) -> None:
    entry = Entry("a.txt", False, 5, of_bytes("alpha"))
    assert Manifest((entry,)).digest != Manifest((replace(entry, **change),)).digest


def test_the_digest_of_a_manifest_does_not_cover_how_files_are_cut() -> None:
    entry = Entry("a.txt", False, 2, "d")
    assert (
        Manifest((entry,)).digest == Manifest((replace(entry, blobs=(("x", 1), ("y", 1))),)).digest
    )


def test_equal_contents_are_stored_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name in "abc":
        (tmp_path / "made" / name).write_text("the same")
    store.put_folder(tmp_path / "made")
    assert len([p for p in (store.root / "blobs").glob("??/*") if p.read_text() == "the same"]) == 1


def test_equal_tensors_of_different_files_are_stored_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    write(tmp_path / "made" / "one.safetensors", WEIGHTS)
    write(
        tmp_path / "made" / "two.safetensors",
        {"embed": WEIGHTS["embed"], "other": ("I8", [1], b"!")},
    )
    manifest, _ = store.put_folder(tmp_path / "made")
    store.restore(manifest, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "made")
    one, two = (dict(entry.blobs) for entry in manifest.files)
    assert set(one) & set(two) == {of_bytes(WEIGHTS["embed"][2])}


def test_large_files_are_cut_into_segments(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "SEGMENT", 4)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "big.bin").write_bytes(b"0123456789")
    manifest, _ = store.put_folder(tmp_path / "made")
    assert manifest.files[0].blobs == (
        (of_bytes("0123"), 4),
        (of_bytes("4567"), 4),
        (of_bytes("89"), 2),
    )
    store.restore(manifest, tmp_path / "out")
    assert (tmp_path / "out" / "big.bin").read_bytes() == b"0123456789"
    assert manifest.files[0].digest == hashing.of_file(tmp_path / "out" / "big.bin")


def test_a_link_to_a_file_is_refused(store: Store, folder: Path) -> None:
    (folder / "link").symlink_to("a.txt")
    with pytest.raises(StepError) as caught:
        store.put_folder(folder)
    assert (caught.value.fact, caught.value.hint) == (
        "the output link is a link or a special file",
        "copy the file's content into the output",
    )


def test_a_link_to_a_folder_is_refused(store: Store, folder: Path) -> None:
    (folder / "link").symlink_to("sub")
    with pytest.raises(StepError) as caught:
        store.put_folder(folder)
    assert caught.value.fact == "the output link is a link or a special file"


def test_a_dangling_link_is_refused(store: Store, folder: Path) -> None:
    (folder / "link").symlink_to("nowhere")
    with pytest.raises(StepError) as caught:
        store.put_folder(folder)
    assert caught.value.fact == "the output link is a link or a special file"


def test_a_named_pipe_is_refused(store: Store, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(StepError) as caught:
        store.put_folder(folder)
    assert caught.value.fact == "the output pipe is a link or a special file"


def test_a_flipped_blob_is_damaged_and_goes_to_quarantine(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    manifest, _ = store.put_folder(folder)
    name = manifest.files[0].digest
    flip(store.path(name))
    assert store.missing(manifest) is None
    with pytest.raises(Damaged) as caught:
        store.restore(manifest, tmp_path / "out")
    assert (caught.value.blob, caught.value.why) == (name, "is damaged")
    assert not store.path(name).exists()
    assert (store.root / "quarantine" / name).exists()


def test_all_damaged_blobs_of_a_folder_are_found_at_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "SEGMENT", 4)
    (tmp_path / "made").mkdir()
    for name in ("one.bin", "two.bin"):
        (tmp_path / "made" / name).write_bytes(
            b"".join(name[:1].encode() + b"%03d" % number for number in range(100))
        )
    manifest, _ = store.put_folder(tmp_path / "made")
    blobs = {blob for entry in manifest.files for blob, _ in entry.blobs}
    for blob in blobs:
        flip(store.path(blob))
    with pytest.raises(Damaged):
        store.restore(manifest, tmp_path / "out")
    assert {path.name for path in (store.root / "quarantine").iterdir()} == blobs


def test_a_truncated_blob_is_told_without_reading_it(store: Store, folder: Path) -> None:
    manifest, _ = store.put_folder(folder)
    name = manifest.files[0].digest
    os.truncate(store.path(name), 2)
    found = store.missing(manifest)
    assert found is not None
    assert (found.blob, found.why) == (name, "has 2 bytes instead of 5")


def test_a_truncated_blob_is_not_restored(store: Store, folder: Path, tmp_path: Path) -> None:
    manifest, _ = store.put_folder(folder)
    os.truncate(store.path(manifest.files[0].digest), 0)
    with pytest.raises(Damaged):
        store.restore(manifest, tmp_path / "out")


def test_a_missing_blob_is_told(store: Store, folder: Path, tmp_path: Path) -> None:
    manifest, _ = store.put_folder(folder)
    name = manifest.files[1].digest
    store.path(name).unlink()
    found = store.missing(manifest)
    assert found is not None
    assert str(found) == f"blob {name} is missing"
    with pytest.raises(Damaged, match="is missing"):
        store.restore(manifest, tmp_path / "out")


def test_a_damaged_manifest_is_told(store: Store, folder: Path) -> None:
    _, blob = store.put_folder(folder)
    flip(store.path(blob), 20)
    with pytest.raises(Damaged, match="is damaged"):
        store.manifest(blob)
    with pytest.raises(Damaged, match="is missing"):
        store.manifest(blob)


def test_blobs_that_do_not_add_up_to_the_file_are_told(store: Store, tmp_path: Path) -> None:
    one, two = store.put_bytes(b"one"), store.put_bytes(b"two")
    manifest = Manifest((Entry("a", False, 6, of_bytes("twoone"), ((one, 3), (two, 3))),))
    with pytest.raises(ValueError, match="'a' is not what its blobs add up to"):
        Manifest.from_json(manifest.to_json().encode())


def test_storing_again_mends_a_damaged_blob(store: Store, folder: Path, tmp_path: Path) -> None:
    manifest, _ = store.put_folder(folder)
    flip(store.path(manifest.files[0].digest))
    store.put_folder(folder)
    store.restore(manifest, tmp_path / "out")
    assert content(tmp_path / "out") == content(folder)


def test_storing_leaves_nothing_unfinished(store: Store, folder: Path) -> None:
    manifest, blob = store.put_folder(folder)
    names = {p.name for p in (store.root / "blobs").rglob("*") if p.is_file()}
    assert names == {blob, *(e.digest for e in manifest.files)}


@pytest.mark.skipif(os.name != "posix", reason="folders of Windows can't be synced")
def test_bytes_are_synced_before_their_names_and_the_trace_comes_last(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the disk after a power cut, as far as the order of calls decides it."""
    calls: list[tuple[str, int]] = []
    fsync, replace_ = os.fsync, os.replace

    def sync(handle: int) -> None:
        calls.append(("sync", os.fstat(handle).st_ino))
        fsync(handle)

    def rename(old: Path, new: Path) -> None:
        calls.append((new.suffix or "blob", new.stat().st_ino if new.exists() else 0))
        replace_(old, new)
        calls[-1] = (calls[-1][0], new.stat().st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    _, blob = store.put_folder(folder)
    Traces(store).put(Trace("f" * 32, "command", (), {"": "1" * 32}, blob))
    named = [inode for name, inode in calls if name in ("blob", ".trace")]
    for inode in named:
        name = next(n for n, i in calls if i == inode and n != "sync")
        assert calls.index(("sync", inode)) < calls.index((name, inode))
    assert [name for name, _ in calls[-3:]] == ["sync", ".trace", "sync"]
    assert calls[-1][1] == (store.root / "blobs/ff").stat().st_ino
    assert len(named) == len(set(named)) == 4


def test_scratch_folders_are_new_and_empty(store: Store) -> None:
    one, two = store.scratch("a"), store.scratch("a")
    assert one != two
    assert list(one.iterdir()) == []
    store.discard(one)
    assert not one.exists()


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "file")
    error = caught.value
    assert (error.fact, error.hint) == (
        "the cache can't be made: Not a directory",
        "set OLIVEBUILD_CACHE to a folder that you may write",
    )
    assert str(error.where) == str(tmp_path / "file")


def as_json(**change: object) -> bytes:
    entry = {"name": "a", "executable": False, "size": 1, "digest": "0" * 32, "blobs": []} | change
    return json.dumps({"files": [entry]}).encode()


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "..", "", ".", "a\\..\\b", "a\0b"]
)
def test_a_manifest_whose_names_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name that leaves its folder") as caught:
        Manifest.from_json(as_json(name=name))
    assert str(caught.value) == f"a name that leaves its folder: {name!r}"


@pytest.mark.parametrize(
    "names",
    [
        ["a//b"],
        ["./a"],
        ["a/"],
        ["x" * 256],
        ["é" * 128],
        ["a", "a"],
        ["a", "a/b"],
        ["a/b/c", "a/b"],
    ],
)
def test_a_manifest_of_files_that_no_folder_can_hold_is_refused(names: list[str]) -> None:
    files = [json.loads(as_json(name=name))["files"][0] for name in names]
    with pytest.raises(ValueError, match=r"a name that no file can have|two files of one name"):
        Manifest.from_json(json.dumps({"files": files}).encode())


@pytest.mark.parametrize("blob", ["../../../victim", "/etc/passwd", "", "zz"])
def test_a_manifest_whose_digests_are_no_digests_is_refused(blob: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do
        Manifest.from_json(as_json(digest=blob))
    with pytest.raises(ValueError):  # noqa: PT011
        Manifest.from_json(as_json(blobs=[[blob, 1]]))


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"name": None},
        {"size": "1"},
        {"size": None},
        {"digest": 5},
        {"digest": None},
        {"blobs": None},
        {"blobs": [["0" * 32, 1e999]]},
        {"blobs": [1]},
    ],
)
def test_a_manifest_with_values_of_other_types_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Manifest.from_json(as_json(**change))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"{}",
        b'{"files": 1}',
        b'{"files": [{}]}',
        b'{"files": "ab"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Manifest.from_json(text)


@settings(database=None, max_examples=200)
@given(json_values)
def test_any_json_is_a_manifest_or_a_value_error(value: object) -> None:
    for text in (json.dumps(value), json.dumps({"files": value}), json.dumps({"files": [value]})):
        try:
            Manifest.from_json(text.encode())
        except ValueError:
            continue


@settings(database=None, max_examples=300)
@given(st.sampled_from(["name", "executable", "size", "digest", "blobs"]), json_values)
def test_any_value_in_an_entry_is_a_manifest_or_a_value_error(field: str, value: object) -> None:
    try:
        manifest = Manifest.from_json(as_json(**{field: value}))
    except ValueError:
        return
    assert Manifest.from_json(manifest.to_json().encode()) == manifest
    assert len(manifest.digest) == 32
    assert manifest.size >= 0
