"""SHA-256 of inputs and outputs: told apart where XXH3 is not, and taken of the content alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.cache.key import Part, key_of
from olivebuild.cache.remote_records import InputPlace, StepPaths
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core import hashing
from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.signed.sums import Sums
from tests.support.forged import forged_pair

PARTS = (Part("step", "kind", "command"),)
KEY = key_of(PARTS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def sums(store: Store) -> Sums:
    return Sums(store, Traces(store), lambda: None)


def file_input(path: Path, digest: str = "") -> StepPaths:
    value = digest or hashing.of_file(path)
    place = InputPlace(label="file in[0]", digest=f"{path.suffix}:{value}", path=str(path))
    return StepPaths(inputs=(place,))


def test_two_files_of_one_digest_have_two_sums(tmp_path: Path, sums: Sums) -> None:
    one, other = tmp_path / "one.bin", tmp_path / "other.bin"
    for path, text in zip((one, other), forged_pair(), strict=True):
        path.write_bytes(text)
    assert hashing.of_file(one) == hashing.of_file(other)
    assert sums.inputs(file_input(one)) != sums.inputs(file_input(other))


def test_a_file_that_was_edited_since_is_told(tmp_path: Path, sums: Sums) -> None:
    path = tmp_path / "in.txt"
    path.write_text("now")
    with pytest.raises(StoreError, match=r"in\.txt has changed since"):
        sums.inputs(file_input(path, "0" * 32))
    path.unlink()
    with pytest.raises(StoreError, match="can't be read"):
        sums.inputs(file_input(path, "0" * 32))


def folder_of(store: Store, folder: Path, text: bytes) -> Trace:
    folder.mkdir()
    (folder / "a.bin").write_bytes(text)
    (folder / "b").write_text("same")
    manifest, blob = store.put_folder(folder)
    return Trace(KEY, "command", PARTS, {"": manifest.digest}, manifest=blob)


def result_input(trace: Trace) -> StepPaths:
    place = InputPlace(label="input x", digest=trace.outputs[""], key=trace.key, output="")
    return StepPaths(inputs=(place,))


def test_the_output_of_a_result_has_one_sum_wherever_it_is_taken(tmp_path: Path) -> None:
    taken = []
    for name in ("one", "other"):
        store = Store(tmp_path / name)
        traces = Traces(store)
        trace = folder_of(store, tmp_path / f"{name}-out", forged_pair()[0])
        traces.put(trace)
        taken.append(Sums(store, traces, lambda: None).inputs(result_input(trace)))
    assert taken[0] == taken[1]
    store = Store(tmp_path / "third")
    trace = folder_of(store, tmp_path / "third-out", forged_pair()[1])
    traces = Traces(store)
    traces.put(trace)
    assert Sums(store, traces, lambda: None).inputs(result_input(trace)) != taken[0]


def test_what_was_kept_needs_no_bytes(tmp_path: Path, store: Store, sums: Sums) -> None:
    trace = folder_of(store, tmp_path / "out", b"text")
    Traces(store).put(trace)
    sums.keep(trace, {"file a[0]": "1" * 64}, {"": "2" * 64})
    for blob in store.blobs():
        blob.unlink()
    assert sums.inputs(result_input(trace)) == {"input x": "2" * 64}
    kept = sums.kept(trace)
    assert kept
    assert kept.inputs == {"file a[0]": "1" * 64}
    # They are of this result, not of another one under its key.
    other = Trace(KEY, "command", PARTS, {"": "3" * 32}, manifest=trace.manifest)
    assert sums.kept(other) is None


def test_a_result_that_is_not_here_is_told(store: Store, sums: Sums) -> None:
    trace = Trace(KEY, "command", PARTS, {"": "3" * 32}, reference="not in this cache")
    with pytest.raises(StoreError, match="is not here"):
        sums.inputs(result_input(trace))
    Traces(store).put(trace)
    with pytest.raises(StoreError, match="not known here"):
        sums.inputs(result_input(trace))


def test_a_cache_of_which_nobody_asks_for_sums_has_none(tmp_path: Path, store: Store) -> None:
    sums = Sums(store, Traces(store), lambda: None)
    assert not (store.root / "sums").exists()
    path = tmp_path / "in.txt"
    path.write_text("text")
    sums.inputs(file_input(path))
    assert (store.root / "sums").is_dir()


def test_an_output_is_read_once(tmp_path: Path, store: Store, sums: Sums) -> None:
    trace = folder_of(store, tmp_path / "out", b"text")
    Traces(store).put(trace)
    first = sums.inputs(result_input(trace))
    for blob in store.blobs():
        blob.unlink()
    assert sums.inputs(result_input(trace)) == first
