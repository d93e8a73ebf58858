"""Merges that are not written: only where a folder is wanted do their weights take room, and one
that can't be repeated is made anew.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from olivebuild.cache.manifest import Manifest
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from tests.conftest import Place
from tests.support.tiny_models import make_adapter

pytestmark = [pytest.mark.scenario, pytest.mark.filterwarnings("ignore")]
RECIPE = """\
targets:
  base: {kind: model, source: tiny}
  adapter: {kind: adapter, source: adapter}
  merged: {kind: merged, model: base, adapter: adapter}
  onnx: {kind: onnx, model: merged}
  inner: {kind: onnx, model: base, adapter: adapter}
"""


@pytest.fixture
def lazy(place: Place, tiny_model: Path) -> Place:
    shutil.copytree(tiny_model, place.folder / "tiny")
    place.recipe.write_text(RECIPE)
    for seed in range(2):
        make_adapter(
            tiny_model,
            place.folder.parent / f"adapter{seed}",
            seed=seed,
            r=4,
            target_modules="all-linear",
        )
    choose(place, 0)
    return place


def choose(place: Place, number: int) -> None:
    shutil.rmtree(place.folder / "adapter", ignore_errors=True)
    shutil.copytree(place.folder.parent / f"adapter{number}", place.folder / "adapter")


def merges_in(place: Place) -> list[tuple[Trace, Manifest]]:
    store = Store(place.cache)
    found = [
        Trace.from_json(file.read_text().partition("\n")[2])
        for file in place.cache.glob("blobs/??/*.trace")
    ]
    return [(trace, store.manifest(trace.manifest)) for trace in found if trace.kind == "merged"]


def test_a_merge_is_written_only_where_a_folder_is_wanted(lazy: Place) -> None:
    # The two ONNX targets are one and the same, so the second is restored.
    assert lazy.build("onnx", "inner").ran == ["adapter", "merged", "onnx"]
    choose(lazy, 1)
    # What lies in build/ under the name of the target is the ONNX model, and no reason to write its
    # merge.
    assert lazy.build("inner").ran == ["adapter", "inner"]
    assert [bool(manifest.merges) for _, manifest in merges_in(lazy)] == [True, True]
    assert not (lazy.folder / "build/merged").exists()
    done = lazy.build("merged", "onnx")
    assert (lazy.folder / "build/merged/model.safetensors").is_file(), done.err
    assert lazy.verdicts("merged", "onnx") == {
        "base": "fresh",
        "adapter": "fresh",
        "merged": "fresh",
        "onnx": "fresh",
    }
    # From now on the folder follows its adapter.
    choose(lazy, 0)
    before = lazy.built("merged", "model.safetensors")
    lazy.build("onnx")
    assert lazy.built("merged", "model.safetensors") != before


def test_a_base_that_moved_is_found_again(lazy: Place) -> None:
    assert lazy.build("onnx").code == 0
    (lazy.folder / "tiny").rename(lazy.folder / "moved")
    lazy.edit("source: tiny", "source: moved")
    assert lazy.build("onnx").ran == []
    # Now the merge's tensors are wanted, which the old folder lent.
    lazy.edit(
        "onnx: {kind: onnx, model: merged}", "onnx: {kind: onnx, model: merged, block_size: 64}"
    )
    assert lazy.build("onnx").ran == ["merged", "onnx"]
    assert lazy.build("onnx").ran == []


def test_a_merge_that_comes_out_differently_is_made_anew_by_the_next_build(lazy: Place) -> None:
    assert lazy.build("onnx").code == 0
    right = lazy.everything()
    ((trace, manifest),) = merges_in(lazy)
    # As another processor would have left it: other bits in one piece.
    merge = manifest.merges[0]
    odd = replace(merge.tensors[0], chunks=("0" * 32, *merge.tensors[0].chunks[1:]))
    changed = replace(manifest, merges=(replace(merge, tensors=(odd, *merge.tensors[1:])),))
    store = Store(lazy.cache)
    traces = Traces(store)
    traces.put(replace(trace, manifest=store.put_manifest(changed)))
    traces.close()
    shutil.rmtree(lazy.cache / "derived")
    shutil.rmtree(lazy.folder / "build")
    for file in lazy.cache.glob("blobs/??/*.trace"):
        if json.loads(file.read_text().partition("\n")[2])["kind"] == "onnx":
            file.unlink()
    shutil.rmtree(lazy.cache / "traces")
    failed = lazy.run("onnx")
    assert failed.code == 1
    assert "comes out differently on this machine" in failed.err
    assert "hint: build again" in failed.err
    assert lazy.build("onnx").ran == ["merged", "onnx"]
    assert lazy.everything() == right


def test_tensors_that_a_power_cut_took_are_computed_again(lazy: Place) -> None:
    lazy.build("onnx")
    right = (lazy.folder / "build/onnx/model.onnx.data").read_bytes()
    onnx = next(
        t
        for f in lazy.cache.glob("blobs/??/*.trace")
        if (t := Trace.from_json(f.read_text().partition("\n")[2])).kind == "onnx"
    )
    store = Store(lazy.cache)
    for entry in store.manifest(onnx.manifest).files:
        for blob, size in entry.runs() if entry.blobs else ():
            store.path(blob).write_bytes(bytes(size) if size % 3 else b"")
    choose(lazy, 1)
    done = lazy.build("onnx")
    assert done.code == 0, done.err
    assert lazy.verdicts("onnx")["onnx"] == "fresh"
    choose(lazy, 0)
    done = lazy.build("onnx")
    assert done.code == 0, done.err
    assert (lazy.folder / "build/onnx/model.onnx.data").read_bytes() == right


def test_what_reads_tensors_does_not_wait_until_a_folder_is_copied(
    lazy: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import olivebuild
    from olivebuild.engine.scheduling import inputs

    lazy.build("merged", "onnx")
    before = lazy.built("merged", "model.safetensors")
    choose(lazy, 1)
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(lazy.cache))
    # As if the merge took minutes to copy.
    monkeypatch.setattr(inputs, "COPIED", 0.0)
    copied: dict[str, bool] = {}

    def look(event: olivebuild.Event) -> None:
        if event.name in ("finished", "restored"):
            target = str(event.data["target"])
            copied[target] = lazy.built("merged", "model.safetensors") != before

    olivebuild.open(lazy.folder).build("merged", "onnx", on_event=look)
    assert copied == {"adapter": False, "merged": False, "onnx": False}
    assert lazy.built("merged", "model.safetensors") != before
    assert lazy.build("merged", "onnx").ran == []


def test_a_folder_is_copied_also_where_what_read_its_tensors_fails(
    lazy: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import olivebuild
    from olivebuild.api.executor import WORKER
    from olivebuild.engine.scheduling import inputs

    lazy.build("merged", "onnx")
    before = lazy.built("merged", "model.safetensors")
    choose(lazy, 1)
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(lazy.cache))
    monkeypatch.setattr(inputs, "COPIED", 0.0)

    def kill(event: olivebuild.Event) -> None:
        if (event.name, event.data.get("target")) == ("started", "onnx"):
            for process in psutil.Process().children():
                if WORKER in process.cmdline():
                    process.kill()

    with pytest.raises(olivebuild.BuildError, match="onnx"):
        olivebuild.open(lazy.folder).build("merged", "onnx", on_event=kill)
    assert lazy.built("merged", "model.safetensors") != before
    # And the reason why it was made is the adapter's, not that it had to be copied.
    (why,) = json.loads(lazy.run("why", "--json", "merged").out)["reasons"]
    assert "adapter" in why["what"]
    assert lazy.build("merged", "onnx").ran == ["onnx"]
