"""Packing: what an action names travels, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from olivebuild.api.action import ActionInput, Asked
from olivebuild.cache import tensor_locations
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged, InputError
from olivebuild.core.fs.files import wait_for_tick
from olivebuild.executors.site import packing
from olivebuild.executors.site.packing import Packer
from olivebuild.executors.site.portable import PortableAction
from tests.support.remote_steps import RemoteSteps


@pytest.fixture
def steps(tmp_path: Path) -> RemoteSteps:
    return RemoteSteps(tmp_path)


def packed(steps: RemoteSteps, **changes: Any) -> tuple[PortableAction, Packer]:
    packer = Packer(steps.store)
    action = steps.action("true")._replace(**changes)
    portable = packer.pack(action)
    # Every blob is where it is said to be, and is what its digests say.
    for blob in portable.blobs:
        place = packer.places[blob.digest]
        data = packing.read(place, 0, place.size)
        assert (hashing.of_bytes(data), len(data)) == (blob.digest, blob.size)
        assert hashlib.sha256(data).hexdigest() == blob.sha256
    assert PortableAction.from_json(portable.to_json()) == portable
    return portable, packer


def model_folder(steps: RemoteSteps) -> Path:
    """Return a model's folder with what no loader reads beside it."""
    folder = steps.work / "model"
    folder.mkdir()
    save_file({"a": np.arange(64, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "phi3"}')
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "README.md").write_text("read me")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("secret")
    return folder


def source(folder: Path, **changes: Any) -> ActionInput:
    values: dict[str, Any] = {"folder": str(folder), "path": str(folder), "kind": "model"}
    return ActionInput(**({"target": "base", "digest": "0" * 32} | values | changes))


def stored(blob: str) -> ActionInput:
    """Return an input whose tensors are read from the store."""
    return ActionInput("", "", "merged", "merged", digest="0" * 32, manifest=blob)


def test_a_model_elsewhere_travels_as_loaders_read_it(steps: RemoteSteps) -> None:
    folder = model_folder(steps)
    portable, packer = packed(steps, inputs={"model": source(folder)})
    assert portable.inputs["model"].path == "."
    manifest = steps.store.manifest(portable.inputs["model"].manifest)
    assert [entry.name for entry in manifest.files] == ["config.json", "model.safetensors"]
    # Bytes are read where they lie, and not copied into the cache.
    weights = manifest.files[1].digest
    assert packer.places[weights].path == folder / "model.safetensors"
    assert not steps.store.path(weights).exists()
    assert str(folder) not in portable.to_json()


def test_nothing_of_the_sender_travels(steps: RemoteSteps) -> None:
    file = steps.write("data/in.txt", "x")
    asked = steps.write("build/tone/test.parquet", "rows")
    portable, _ = packed(
        steps,
        files={"source": [str(file)]},
        asked=[Asked("bench", str(asked), 8, whole=False)],
    )
    assert str(steps.root) not in portable.to_json()
    assert portable.files == {"source": ["data/in.txt"]}
    assert portable.asked[0].file.name == "0.parquet"


def test_what_is_lent_becomes_blobs(steps: RemoteSteps) -> None:
    folder = model_folder(steps)
    digest = hashing.of_bytes("the model")
    (path, tensor, offset, size), *_ = tensor_locations.of_folder(steps.store.root, digest, folder)
    text = steps.store.put_bytes(b"{}")
    manifest = Manifest(
        (
            Entry.of_runs("config.json", [(text, 2)]),
            Entry.of_runs("model.safetensors", [(text, 2), (tensor, size)]),
        ),
        base=digest,
    )
    blob = steps.store.put_manifest(manifest)
    portable, packer = packed(steps, inputs={"model": stored(blob)})
    assert portable.inputs["model"].manifest == ""
    assert portable.inputs["model"].stored == blob
    assert {b.digest for b in portable.blobs} == {blob, text, tensor}
    place = packer.places[tensor]
    assert (place.path, place.offset) == (path, offset)


def test_an_input_that_is_not_whole(steps: RemoteSteps) -> None:
    manifest = Manifest((Entry("x", executable=False, size=3, digest="1" * 32),))
    blob = steps.store.put_manifest(manifest)
    with pytest.raises(Damaged, match="is missing"):
        packed(steps, inputs={"x": stored(blob)})


def test_a_file_beside_the_recipe(steps: RemoteSteps) -> None:
    outside = steps.root / "x.txt"
    outside.write_text("x")
    with pytest.raises(InputError, match="not below the recipe's folder"):
        packed(steps, files={"f": [str(outside)]})


def test_a_file_is_hashed_once(steps: RemoteSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(steps)
    newest = max(path.stat().st_mtime_ns for path in folder.iterdir())
    wait_for_tick(steps.root, newest)
    before, _ = packed(steps, inputs={"model": source(folder)})
    reads: list[Path] = []

    def count(place: tensor_locations.ByteRange, offset: int, most: int) -> bytes:
        reads.append(place.path)
        return b""

    packer = Packer(steps.store)
    monkeypatch.setattr(packing, "read", count)
    action = steps.action("true")._replace(inputs={"model": source(folder)})
    assert {b.digest for b in packer.pack(action).blobs} == {b.digest for b in before.blobs}
    assert not [path for path in reads if folder in path.parents]


def test_variables_that_change_results_travel(
    steps: RemoteSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    portable, _ = packed(steps)
    assert portable.settings["OMP_NUM_THREADS"] == "3"
    assert "hf_secret" not in portable.to_json()
