"""A model for hardware that is not here is told where it would be run, and not where it is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.core.errors import Problem
from olivebuild.planner.checks import providers
from olivebuild.planner.checks.all_checks import problems
from olivebuild.planner.checks.plan_finding import PlanFinding
from tests.formats.test_safetensors import WEIGHTS, write
from tests.support.sites import Site

RECIPE = """\
targets:
  base: {kind: model, source: ../models/base}
  rows: {kind: dataset, source: rows.jsonl, prompt: "{t}", completion: "{u}"}
  there:
    kind: onnx
    model: base
    provider: cuda
  here: {kind: onnx, model: base}
  brought: {kind: onnx, source: ../models/brought}
  bench:
    kind: benchmark
    models: [base, here, there]
    data: rows.test
    latency: {}
  other: {kind: benchmark, models: [brought], data: rows.test}
"""
NO_GPU = Problem("no GPU is to be seen here", "run it elsewhere")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a project on a machine that runs models for processors alone."""
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'
    )
    (base / "tokenizer.json").write_text("{}")
    write(base / "model.safetensors", WEIGHTS)
    bring(tmp_path, {"DML": {}})
    site = Site(tmp_path, RECIPE)
    site.write("rows.jsonl", "".join(f'{{"t": "text {i}", "u": "{i}"}}\n' for i in range(9)))

    def reason_against(provider: str) -> Problem | None:
        return None if provider == "cpu" else NO_GPU

    monkeypatch.setattr(providers, "reason_against", reason_against)
    return site


def bring(folder: Path, *provider_options: dict[str, object]) -> None:
    brought = folder / "models" / "brought"
    brought.mkdir(exist_ok=True)
    session = {"provider_options": list(provider_options)}
    decoder = {"filename": "model.onnx", "session_options": session}
    config = {"model": {"type": "llama", "context_length": 64, "decoder": decoder}}
    (brought / "genai_config.json").write_text(json.dumps(config))


def told(site: Site, *goals: str) -> list[PlanFinding]:
    planner = site.planner()
    try:
        plan = planner.plan(planner.graph.goals(goals), with_faults=True)
        return [p for p in problems(planner, plan) if "is built for" in p.fact]
    finally:
        planner.traces.close()


def test_a_benchmark_of_a_model_that_cannot_run_here_is_told_once(site: Site) -> None:
    (finding,) = told(site, "bench")
    assert finding.fact == "there is built for cuda: no GPU is to be seen here"
    assert finding.hint == NO_GPU.hint
    assert (finding.target, finding.where.line, finding.fails) == ("bench", 12, True)
    assert sorted(finding.nodes) == ["bench:accuracy.there", "bench:latency"]


def test_making_it_is_no_fault(site: Site) -> None:
    assert told(site, "there", "here") == []


def test_a_folder_that_is_brought_tells_its_provider(site: Site, tmp_path: Path) -> None:
    (finding,) = told(site, "other")
    assert finding.fact == "brought is built for dml: no GPU is to be seen here"
    bring(tmp_path)
    assert told(site, "other") == []


def test_where_it_can_run_nothing_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "reason_against", lambda provider: None)
    assert told(site, "bench", "other") == []


def test_providers_of_others_are_left_to_them(site: Site, tmp_path: Path) -> None:
    bring(tmp_path, {"QNN": {}})
    assert told(site, "other") == []
