"""What of the machine the bytes depend on: named by traces, told by `why`, and part of a key only
where the recipe says so.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.traces import Trace
from olivebuild.core import numerics
from olivebuild.core.errors import RecipeError
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.graph import build_graph
from tests.conftest import Place

RECIPE = """\
targets:
  made: {kind: command, run: "sh make.sh", outputs: [o.txt]}
  used: {kind: command, run: "cp {inputs.made} {outputs.u}", inputs: {made: made.o},
    outputs: {u: u.txt}}
"""
# What a library does that takes its instructions by such a setting.
MAKE = 'printf %s "${ATEN_CPU_CAPABILITY:-best}" > "$OLIVEBUILD_OUT/o.txt"; echo >> ran\n'
OTHER = "ATEN_CPU_CAPABILITY"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in (*numerics.SETTINGS, *numerics.THREADS):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    found = Place(tmp_path / "work", tmp_path / "cache", {"OMP_NUM_THREADS": "1"})
    found.recipe.write_text(RECIPE)
    (found.folder / "make.sh").write_text(MAKE)
    return found


def made(place: Place) -> list[Mapping[str, Any]]:
    traces = [
        Trace.from_json(file.read_text().partition("\n")[2])
        for file in place.cache.glob("blobs/??/*.trace")
    ]
    return [
        t.provenance["numerics"]
        for t in traces
        if any(p.what == "run" and "make.sh" in p.value for p in t.parts)
    ]


def test_the_numerics_are_in_the_trace_and_not_in_the_key(place: Place) -> None:
    assert place.build().ran == ["made", "used"]
    place.environment[OTHER] = "default"
    assert place.build().ran == []
    assert place.built("made/o.txt") == b"best"
    told = place.run("why", "made").out
    assert (
        f"made under other numerics than this machine's ({OTHER} not set, here default): a clean "
        "build here may give other bytes" in told
    )
    del place.environment[OTHER]
    assert "numerics" not in place.run("why", "made").out
    place.environment["OMP_NUM_THREADS"] = "3"
    assert "threads 1, here 3" in json.loads(place.run("why", "made", "--json").out)["notes"][0]
    (one,) = made(place)
    assert one == dict(one) | {"threads": "1"}
    assert {"processor", "instructions", "library"} <= one.keys()


def test_a_result_that_other_numerics_change_is_not_called_undetermined(place: Place) -> None:
    place.build()
    place.environment[OTHER] = "default"
    for blob in place.cache.glob("blobs/??/*"):
        if not blob.name.endswith(".trace"):
            blob.unlink()
    (place.folder / "build/made/o.txt").unlink()
    done = place.build()
    assert done.ran == ["made", "used"]
    notes = [e["text"] for e in done.events if e["event"] == "note" and e["target"] == "made"]
    assert notes == [
        "the same inputs gave another result than on the last run (made under other numerics: "
        f"{OTHER} not set, here default)"
    ]
    assert [m[OTHER] for m in made(place)] == ["default"]


def test_strict_numerics_are_in_the_key(place: Place) -> None:
    """Also for an answer that is given from stats alone, and for a build that knows what the last
    one did.
    """
    place.recipe.write_text("numerics: strict\n" + RECIPE)
    # The first build leaves what it knows, the second an answer.
    assert place.build().ran == ["made", "used"]
    assert place.run().out == place.run().out == "nothing to do: used is fresh\n"
    place.environment[OTHER] = "default"
    assert f"machine numerics.{OTHER}: new: default" in place.run("why", "made").out
    assert place.run().code == 0
    assert place.built("used/u.txt") == b"default"
    assert place.run().out == place.run().out == "nothing to do: used is fresh\n"
    del place.environment[OTHER]
    end = place.build().end
    assert (end["ran"], end["restored"]) == ([], ["made", "used"])
    assert place.built("used/u.txt") == b"best"
    assert (place.folder / "ran").read_text() == "\n\n"


def test_strict_is_for_what_computes(tmp_path: Path) -> None:
    text = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: a.jsonl, prompt: "{p}", completion: "{c}"}
  adapter: {kind: adapter, model: base, data: tone}
  brought: {kind: adapter, model: base, source: there}
  merged: {kind: merged, model: base, adapter: adapter}
  equal: {kind: merged, model: base, adapter: adapter, reproducible: true}
  onnx: {kind: onnx, model: merged}
  bench: {kind: benchmark, models: [merged], data: tone}
  c: {kind: command, run: x, outputs: [y]}
"""
    (tmp_path / FILE_NAME).write_text(text)
    assert not any(node.strict for node in build_graph(load(tmp_path / FILE_NAME)).nodes.values())
    (tmp_path / FILE_NAME).write_text(f"numerics: strict\n{text}")
    strict = {
        node.name for node in build_graph(load(tmp_path / FILE_NAME)).nodes.values() if node.strict
    }
    assert {"adapter", "merged", "onnx", "c", "bench:latency"} <= strict
    assert not {"base", "tone", "brought", "equal", "bench"} & strict


@pytest.mark.parametrize("value", ["exact", "[strict]", "1", "{strict: true}"])
def test_what_numerics_may_say(tmp_path: Path, value: str) -> None:
    (tmp_path / FILE_NAME).write_text(f"numerics: {value}\n{RECIPE}")
    with pytest.raises(RecipeError, match=r"numerics: .* is not one of any, strict") as e:
        load(tmp_path / FILE_NAME).strict  # noqa: B018
    assert e.value.where
    assert e.value.where.line == 1


@pytest.mark.parametrize(
    ("given", "threads"),
    [("4", "4"), ("4,2", "4"), (" 2 ", "2"), ("0", None), ("many", None), ("", None)],
)
def test_threads_are_those_that_libraries_begin_with(
    given: str, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    assert numerics.threads() == (threads or str(len(os.sched_getaffinity(0))))


def test_what_differs_in_words() -> None:
    one = {
        "processor": "x86_64 GenuineIntel 6 143",
        "instructions": "avx avx2 fma",
        "threads": "8",
        "MKL_CBWR": "COMPATIBLE",
    }
    other = {
        "processor": "x86_64 AuthenticAMD 25 1",
        "instructions": "avx avx2 avx512f",
        "gpu": "NVIDIA H200",
    }
    assert numerics.differing(one, other) == [
        "processor x86_64 GenuineIntel 6 143, here x86_64 AuthenticAMD 25 1",
        "without avx512f",
        "with fma",
        "threads 8, here not set",
        "MKL_CBWR COMPATIBLE, here not set",
        "gpu not set, here NVIDIA H200",
    ]
    assert numerics.differing(one, one) == numerics.differing({}, one) == []


@pytest.mark.slow
def test_a_training_equals_a_clean_one_under_the_numerics_of_its_trace(
    copied: Place, tmp_path: Path
) -> None:
    """The processor without its wider instructions gives another adapter, to the byte the one that
    it gives from nothing.
    """
    file = ("adapter", "adapter_model.safetensors")
    copied.environment["OMP_NUM_THREADS"] = "1"
    copied.recipe.write_text("numerics: strict\n" + copied.recipe.read_text())
    assert copied.build("adapter").code == 0
    first = copied.built(*file)
    copied.environment[OTHER] = "default"
    assert "adapter" in copied.build("adapter").ran
    second = copied.built(*file)
    clean = Place(copied.folder, tmp_path / "clean", copied.environment)
    shutil.rmtree(clean.folder / "build")
    assert clean.build("adapter").code == 0
    assert clean.built(*file) == second
    del copied.environment[OTHER]
    assert copied.build("adapter").end["restored"] == ["adapter"]
    assert copied.built(*file) == first
    # Where the processor has no more than the least, both are one.
    wider = {"avx2", "avx512f"} & {*numerics.here()["instructions"].split()}
    assert (first != second) == bool(wider)
