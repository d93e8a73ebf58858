"""Trainings in FP8: what a plan says of the machine at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core import host
from olivebuild.planner.checks import fp8
from tests.conftest import RECIPE
from tests.support.sites import Site

HUB = RECIPE.replace("source: tiny", 'source: "hf:own/tiny"')
FP8 = HUB.replace("training: {", "training: {base: fp8, ")


def findings(folder: Path, recipe: str = FP8, elsewhere: tuple[str, ...] = ()) -> list[Any]:
    site = Site(folder, recipe)
    locked = {"sources": {"hf:own/tiny": "c" * 40}, "libraries": {}}
    site.write("olivebuild.lock", json.dumps(locked))
    site.write("data/tone.jsonl", '{"phrase": "a", "tone": "b"}\n')
    planner = site.planner()
    return list(fp8.problems(planner, planner.plan(["onnx-int4"]), elsewhere))


def with_card(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    monkeypatch.setattr(host, "gpu_names", lambda: ("a card",) if capabilities else ())
    monkeypatch.setattr(host, "compute_capabilities", lambda: capabilities)


def test_a_card_without_fp8_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FP8 != HUB
    with_card(monkeypatch, (8, 0))
    (finding,) = findings(tmp_path)
    assert finding.fails
    assert finding.fact.endswith("compute capability 8.9 or later, and this one has 8.0")
    assert "leave `base` out" in finding.hint
    assert finding.where.line


def test_another_machine_and_another_format_are_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_card(monkeypatch, (8, 0))
    for name, recipe, elsewhere in (("there", FP8, ("adapter",)), ("plain", HUB, ())):
        (tmp_path / name).mkdir()
        assert findings(tmp_path / name, recipe, elsewhere) == []


@pytest.mark.parametrize("capabilities", [((8, 9),), ((9, 0),), ((12, 0), (8, 6))])
def test_a_card_with_fp8_is_no_finding(
    capabilities: tuple[tuple[int, int], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_card(monkeypatch, *capabilities)
    assert findings(tmp_path) == []


def test_a_processor_is_slower_and_can_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_card(monkeypatch)
    (finding,) = findings(tmp_path)
    assert not finding.fails
    assert "no GPU is to be seen" in finding.fact


def test_capabilities_are_what_the_driver_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$1" in *compute_cap*) echo 9.0;; *) echo H200;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    host.gpu_names.cache_clear()
    host.compute_capabilities.cache_clear()
    try:
        assert host.compute_capabilities() == ((9, 0),)
    finally:
        host.gpu_names.cache_clear()
        host.compute_capabilities.cache_clear()
