"""A conversion that rounds otherwise than its adapter was trained for is told by the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.planner.checks.all_checks import problems
from olivebuild.planner.checks.plan_finding import PlanFinding
from tests.formats.test_safetensors import WEIGHTS, write
from tests.support.sites import Site

RECIPE = """\
targets:
  base: {kind: model, source: ../models/base}
  rows: {kind: dataset, source: rows.jsonl, prompt: "{t}", completion: "{u}"}
  adapter:
    kind: adapter
    model: base
    data: rows.train
    aware: {precision: int4, block_size: 32}
  merged: {kind: merged, model: base, adapter: adapter}
  alike: {kind: onnx, model: merged, block_size: 32}
  other:
    kind: onnx
    model: merged
    precision: int4
    block_size: 64
  inner: {kind: onnx, model: base, adapter: adapter, algorithm: k_quant}
  of-base: {kind: onnx, model: base, block_size: 64}
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'
    )
    (base / "tokenizer.json").write_text("{}")
    write(base / "model.safetensors", WEIGHTS)
    site = Site(tmp_path, RECIPE)
    site.write("rows.jsonl", "".join(f'{{"t": "text {i}", "u": "{i}"}}\n' for i in range(9)))
    return site


def told(site: Site, *goals: str) -> list[PlanFinding]:
    planner = site.planner()
    try:
        plan = planner.plan(planner.graph.goals(goals), with_faults=True)
        return [p for p in problems(planner, plan) if "rounding" in p.fact or "aware" in p.fact]
    finally:
        planner.traces.close()


def test_a_target_with_other_options_gets_a_note(site: Site) -> None:
    (finding,) = told(site, "other")
    assert finding.fact == "adapter was trained for another rounding: block_size: 64 instead of 32"
    assert finding.hint == "write the same options here and in adapter's `aware`"
    assert (finding.target, finding.where.line, finding.fails) == ("other", 14, False)
    (inner,) = told(site, "inner")
    assert inner.fact.endswith("another rounding: algorithm: k_quant instead of default")


def test_a_target_of_the_same_options_or_of_no_such_adapter_gets_none(site: Site) -> None:
    assert told(site, "alike") == []
    assert told(site, "of-base") == []
    assert told(site, "merged") == []


def test_a_base_that_is_quantised_already_is_refused(site: Site) -> None:
    (site.folder.parent / "models" / "base" / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", '
        '"quantization_config": {"quant_method": "gptq"}}'
    )
    facts = [finding for finding in told(site, "adapter") if finding.fails]
    assert [finding.where.line for finding in facts] == [8]
    assert "`aware` rounds the base's own weights" in facts[0].fact
