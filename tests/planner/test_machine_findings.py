"""What a machine lacks for the steps that will run: libraries together, and room for weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from olivebuild.executors.local import LocalExecutor
from olivebuild.planner.checks import machine
from olivebuild.planner.workspace import LastBuild
from tests.conftest import RECIPE, Place
from tests.support.sites import Site

HUB = RECIPE.replace("source: tiny", 'source: "hf:own/tiny"')


def lacks(*names: str) -> machine.Lacks:
    def missing(libraries: Iterable[str]) -> list[str]:
        return [library for library in libraries if library in names]

    return missing


def site_with_hub(folder: Path) -> Site:
    site = Site(folder, HUB)
    site.write(
        "olivebuild.lock", json.dumps({"sources": {"hf:own/tiny": "c" * 40}, "libraries": {}})
    )
    site.write("data/tone.jsonl", '{"phrase": "a", "tone": "b"}\n')
    return site


def test_libraries_that_the_same_targets_need_are_one_finding(tmp_path: Path) -> None:
    planner = site_with_hub(tmp_path).planner()
    plan = planner.plan(["onnx-int4"])
    found = list(machine.problems(planner, plan, lacks("peft", "huggingface_hub", "pyarrow")))
    assert [(f.fact, f.fails) for f in found] == [
        ("base needs huggingface_hub, which is not installed here", True),
        ("tone needs pyarrow, which is not installed here", True),
        ("adapter, merged need peft, which is not installed here", True),
    ]
    assert all(f.hint.startswith("pip install") and f.where.line for f in found)
    assert list(machine.problems(planner, plan, lacks())) == []


def test_what_waits_and_was_built_before_may_be_restored(tmp_path: Path) -> None:
    planner = site_with_hub(tmp_path).planner()
    planner.workspace.remember("adapter", LastBuild("0" * 32))
    plan = planner.plan(["adapter"])
    (finding,) = machine.problems(planner, plan, lacks("peft"))
    assert not finding.fails


def small_files(folder: Path, total: int) -> Path:
    folder.mkdir()
    index = {"metadata": {"total_size": total}, "weight_map": {"a": "1.safetensors", "b": "2.st"}}
    (folder / machine.INDEX).write_text(json.dumps(index))
    return folder


def test_weights_that_do_not_fit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    planner = site_with_hub(tmp_path).planner()
    plan = planner.plan(["base"])
    plan.small["base"] = small_files(tmp_path / "small", 10**18)
    (finding,) = machine.space_problems(planner, plan)
    assert finding.fails
    assert finding.fact.startswith("the weights of base are 1000000000.00 GB, and ")
    assert finding.where.line == 3
    plan.small["base"] = small_files(tmp_path / "fits", 10)
    assert list(machine.space_problems(planner, plan)) == []


def test_what_is_here_already_is_not_fetched(tmp_path: Path) -> None:
    folder = small_files(tmp_path / "small", 1000)
    assert machine.bytes_to_fetch(folder) == 1000
    (folder / "1.safetensors").write_bytes(bytes(400))
    assert machine.bytes_to_fetch(folder) == 600
    (folder / machine.INDEX).write_text("[]")
    assert machine.bytes_to_fetch(folder) == machine.bytes_to_fetch(tmp_path) == 0


def test_an_executor_of_this_machine_tells_what_it_lacks() -> None:
    assert LocalExecutor().missing(["click", "no-such-library"]) == ["no-such-library"]


def test_all_that_is_missing_is_said_before_anything_is_fetched(place: Place) -> None:
    """Two data files and a model's folder that are not there: one build tells of all."""
    place.recipe.write_text(
        RECIPE + "  more: {kind: dataset, source: data/more.jsonl, text: '{t}'}\n"
        '  far: {kind: model, source: "hf:own/never"}\n'
    )
    done = place.run("build", "onnx-int4", "more")
    assert done.code == 1
    for name in ("tiny", "data/tone.jsonl", "data/more.jsonl"):
        assert name in done.err, done.err
    assert "run " not in done.out
