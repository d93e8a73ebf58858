"""Targets of kind onnx whose weights are rounded by the moments of their inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.planner.project import open_graph
from olivebuild.recipe.graph import Graph

RECIPE = """\
version: 1
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: rows.jsonl, prompt: "{phrase}", completion: "{tone}"}
  lora: {kind: adapter, model: base, data: tone.train}
  merged: {kind: merged, model: base, adapter: lora}
  twice: {kind: merged, model: merged, adapter: lora}
  brought: {kind: merged, source: elsewhere}
  plain: {kind: onnx, model: merged}
"""
GPTQ = "algorithm: gptq, calibration: tone.train"


def opened(folder: Path, target: str = "") -> Graph:
    text = RECIPE + (f"  int4: {{kind: onnx, {target}}}\n" if target else "")
    (folder / "olivebuild.yaml").write_text(text)
    return open_graph(folder, None)


def inputs(graph: Graph, name: str) -> list[tuple[str, str, str]]:
    return [(edge.role, source.name, output) for edge, source, output in graph.inputs[name]]


@pytest.mark.parametrize("model", ["base", "merged", "twice"])
def test_moments_are_those_of_the_base(model: str, tmp_path: Path) -> None:
    graph = opened(tmp_path, f"model: {model}, {GPTQ}")
    assert inputs(graph, "int4:moments") == [("model", "base", ""), ("rows", "tone", "train")]
    assert inputs(graph, "int4") == [("model", model, ""), ("moments", "int4:moments", "")]


def test_moments_may_be_those_of_the_model_itself(tmp_path: Path) -> None:
    graph = opened(tmp_path, f"model: merged, {GPTQ}, moments: merged")
    assert inputs(graph, "int4:moments")[0] == ("model", "merged", "")
    graph = opened(tmp_path, f"model: base, adapter: lora, {GPTQ}, moments: merged")
    assert inputs(graph, "int4:moments")[0] == ("model", "int4:merged", "")
    graph = opened(tmp_path, f"model: base, adapter: lora, {GPTQ}")
    assert inputs(graph, "int4:moments")[0] == ("model", "base", "")


def test_rows_are_in_the_key_of_moments_and_the_rest_is_the_builders(tmp_path: Path) -> None:
    graph = opened(tmp_path, f"model: merged, {GPTQ}, moments: base")
    assert graph.nodes["int4:moments"].parameters == ()
    assert ("algorithm", '"gptq"') in graph.nodes["int4"].parameters
    names = {name for name, _ in graph.nodes["int4"].parameters}
    assert names == {*(name for name, _ in graph.nodes["plain"].parameters), "algorithm"}


@pytest.mark.parametrize(
    ("target", "fact"),
    [
        ("model: merged, algorithm: gptq", "algorithm: gptq needs `calibration`"),
        ("model: merged, calibration: tone.train", "`calibration` belongs to algorithm: gptq"),
        ("model: merged, moments: base", "`moments` belongs to algorithm: gptq"),
        (f"model: merged, {GPTQ}, precision: int8", "rounds to 4 bits, and precision is int8"),
        (f"model: merged, {GPTQ}, qdq: true", "not known for qdq"),
        (f"model: merged, {GPTQ}, op_types: [Gather]", "not known for op_types"),
        ("model: merged, algorithm: gptq, calibration: nothing", "nothing"),
        ("model: merged, algorithm: gptq, calibration: lora", "lora"),
        (f"model: brought, {GPTQ}", "there is no base to take moments of"),
    ],
)
def test_what_can_not_be_rounded_so_is_refused_with_its_place(
    target: str, fact: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=fact) as refused:
        opened(tmp_path, target)
    assert "olivebuild.yaml:10" in str(refused.value.where)


@pytest.mark.parametrize("model", ["{kind: merged, model: merged", "{kind: merged, model: twice"])
def test_a_cycle_of_merges_is_told_and_not_followed(model: str, tmp_path: Path) -> None:
    text = RECIPE.replace("{kind: merged, model: base", model)
    (tmp_path / "olivebuild.yaml").write_text(
        f"{text}  int4: {{kind: onnx, model: merged, {GPTQ}}}\n"
    )
    with pytest.raises(RecipeError, match="a cycle"):
        open_graph(tmp_path, None)
