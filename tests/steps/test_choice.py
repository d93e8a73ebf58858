"""A choice in the recipe: what it reads, what is wrong with it, what enters its key.

Real ones run in the scenarios.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.planner.project import open_graph
from olivebuild.recipe.graph import Graph

RECIPE = """\
targets:
  base: {kind: model, source: nowhere}
  tone: {kind: dataset, source: a.jsonl, prompt: "{phrase}", completion: "{tone}"}
  a: {kind: onnx, model: base, precision: int4}
  b: {kind: onnx, model: base, precision: int4, block_size: 64}
  bench: {kind: benchmark, models: [base, a, b], data: tone}
  alone: {kind: benchmark, models: [base], data: tone}
  best: {kind: choice, by: bench, best: size, gates: ["accuracy >= 0.9"]}
"""


def opened(folder: Path, text: str = RECIPE) -> Graph:
    (folder / "olivebuild.yaml").write_text(text)
    return open_graph(folder, None)


def test_it_reads_the_benchmark_and_its_onnx_models(tmp_path: Path) -> None:
    graph = opened(tmp_path)
    assert [
        (edge.role, source.target, edge.streams_tensors) for edge, source, _ in graph.inputs["best"]
    ] == [
        ("by", "bench", False),
        ("model[0]", "a", True),
        ("model[1]", "b", True),
    ]
    assert graph.targets_below(["best"])[-2:] == ["bench", "best"]


def test_its_gates_are_in_its_key_and_the_benchmarks_are_not(tmp_path: Path) -> None:
    one = opened(tmp_path)
    other = opened(
        tmp_path,
        RECIPE.replace("0.9", "0.8").replace(
            "data: tone}\n  alone", 'data: tone, gates: ["size <= 1MB"]}\n  alone'
        ),
    )
    assert one.nodes["best"].parameters != other.nodes["best"].parameters
    assert [n.parameters for n in one.nodes.values() if n.target == "bench"] == [
        n.parameters for n in other.nodes.values() if n.target == "bench"
    ]


@pytest.mark.parametrize(
    ("new", "fact", "hint"),
    [
        (
            "by: alone, best: size",
            "alone lists no ONNX model to choose from",
            "list some under its `models`",
        ),
        ("by: bench, best: sice", "there is no figure 'sice' to choose by", "did you mean size?"),
        ("by: bench, best: tune.accuracy", "bench has no data set 'tune'", "did you mean tone?"),
        (
            'by: bench, gates: ["accuracy"]',
            "the gate 'accuracy' can't be read",
            "write for example",
        ),
        (
            'by: bench, gates: ["bass.accuracy > 0.1"]',
            "the gate 'bass.accuracy > 0.1' names 'bass', which bench does not measure",
            "did you mean base?",
        ),
        (
            "by: base",
            "base is of kind model, which is not what best takes here",
            "it takes benchmark",
        ),
        ("by: bench, bets: size", "unknown key 'bets' in best", "did you mean best?"),
    ],
)
def test_errors_have_a_place_and_a_hint(tmp_path: Path, new: str, fact: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        opened(tmp_path, RECIPE.replace('by: bench, best: size, gates: ["accuracy >= 0.9"]', new))
    assert fact in caught.value.fact
    assert hint in caught.value.hint
    assert str(caught.value.where).startswith("olivebuild.yaml:8:")
