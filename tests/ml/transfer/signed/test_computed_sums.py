"""SHA-256 of tensors that no remote cache has: those of a merge, and those that a model lends."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from olivebuild.cache.remote_records import RemoteResult, opened
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Traces
from olivebuild.formats.safetensors import tensors_of
from tests.conftest import Place


def signed_results(remote: Path) -> dict[str, RemoteResult]:
    """Return kind -> result of what lies in a remote cache."""
    results = {}
    for path in remote.glob("v1/traces/??/*"):
        body, signature = opened(path.read_bytes())
        assert signature.signer
        key = path.name.partition(".")[0]
        result = RemoteResult.from_body(body, key)
        results[result.trace.kind] = result
    return results


def forget_merge(place: Place) -> None:
    """Forget the merge, whose tensors a build for int4 alone does not store."""
    store = Store(place.cache)
    traces = Traces(store)
    for key in traces.keys():  # noqa: SIM118
        trace = traces.read(key)
        if trace and trace.kind in ("merged", "onnx"):
            for entry in store.manifest(trace.manifest).files:
                for blob, _ in entry.blobs:
                    store.path(blob).unlink(missing_ok=True)
            traces.forget(key)
    traces.close()


@pytest.mark.scenario
def test_lent_and_computed_tensors_are_signed(copied: Place, tmp_path: Path) -> None:
    copied.environment["OLIVEBUILD_CONFIG"] = str(tmp_path / "config")
    forget_merge(copied)
    (copied.folder / "build/merged").rename(tmp_path / "merged")
    done = copied.build("onnx-int4")
    assert done.end["ran"] == ["merged", "onnx-int4"], done.err
    remote = tmp_path / "remote"
    key = copied.run("remote", "keygen").out.split()[-1]
    done = copied.run("remote", "push", "--url", remote.as_uri())
    assert done.code == 0, done.err
    merged = signed_results(remote)["merged"]
    sums = {blob.digest: blob.sha256 for blob in merged.elsewhere}
    manifest = json.loads(
        (remote / f"v1/blobs/{merged.trace.manifest[:2]}")
        .joinpath(merged.trace.manifest)
        .read_bytes()
    )
    computed = {t["digest"] for merge in manifest["merges"] for t in merge["tensors"]}
    assert computed
    assert sums.keys() - computed, "what the base lends is signed, too"
    assert computed <= sums.keys()
    # They are those of the bytes that a step reads.
    (weights,) = (tmp_path / "merged").glob("*.safetensors")
    data = weights.read_bytes()
    actual = {hashlib.sha256(data[t.start : t.end]).hexdigest() for t in tensors_of(weights)}
    assert set(sums.values()) <= actual | {hashlib.sha256(b"").hexdigest()}
    second = Place(tmp_path / "second", tmp_path / "second-cache")
    second.folder.mkdir()
    for name in ("olivebuild.yaml", "tiny", "data"):
        source = copied.folder / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, second.folder / name)
    second.environment |= {
        "OLIVEBUILD_REMOTE": remote.as_uri(),
        "OLIVEBUILD_TRUSTED_KEYS": key,
        "OLIVEBUILD_CONFIG": str(tmp_path / "second-config"),
    }
    done = second.build("onnx-int4")
    assert done.end["ran"] == [], done.out
    assert second.built("onnx-int4", "model.onnx") == copied.built("onnx-int4", "model.onnx")
