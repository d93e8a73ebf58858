"""Adapters kept apart in a recipe: what is wrong with them, and what enters which key."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.planner.project import open_graph
from olivebuild.recipe.graph import Graph
from olivebuild.steps.onnx import STEP as ONNX
from olivebuild.steps.onnx import OnnxFields

RECIPE = """\
targets:
  base: {kind: model, source: nowhere}
  tone: {kind: dataset, source: a.jsonl, prompt: "{phrase}", completion: "{tone}"}
  lora: {kind: adapter, model: base, data: tone}
  plain: {kind: onnx, model: base}
  int4: {kind: onnx, model: base, slots: [v_proj, q_proj]}
  apart: {kind: onnx-adapter, base: int4, adapter: lora}
  brought: {kind: onnx-adapter, base: int4, source: folder, stop: ["<|end|>"]}
  bench: {kind: benchmark, models: [plain, apart, lora], data: tone}
"""


def opened(folder: Path, text: str = RECIPE) -> Graph:
    (folder / "olivebuild.yaml").write_text(text)
    return open_graph(folder, None)


def edges(graph: Graph, name: str) -> list[tuple[str, str, str]]:
    return [(edge.role, source.target, output) for edge, source, output in graph.inputs[name]]


def test_it_reads_the_slots_of_its_base_and_not_the_weights(tmp_path: Path) -> None:
    graph = opened(tmp_path)
    assert edges(graph, "apart") == [("slots", "int4", "slots"), ("adapter", "lora", "")]
    assert edges(graph, "brought") == [("slots", "int4", "slots")]
    assert graph.nodes["brought"].parameters == (("stop", '["<|end|>"]'),)
    assert graph.nodes["apart"].parameters == ()


def test_slots_are_in_the_key_of_a_base_that_has_some_and_no_adapter_is(tmp_path: Path) -> None:
    graph = opened(tmp_path)
    assert graph.nodes["int4"].parameters[-1] == ("slots", '["q_proj","v_proj"]')
    assert "slots" not in dict(graph.nodes["plain"].parameters)
    assert graph.nodes["int4"].outputs == {"": ".", "slots": "adapter_slots.json"}
    assert graph.nodes["plain"].outputs == {"": "."}
    assert edges(graph, "int4") == edges(graph, "plain") == [("model", "base", "")]
    assert ONNX.parameters(OnnxFields(slots="all-linear"))["slots"] == "all-linear"


def test_a_benchmark_asks_and_times_it_in_the_slots_of_its_base(tmp_path: Path) -> None:
    graph = opened(tmp_path)
    assert edges(graph, "bench:accuracy.apart") == [
        ("model", "int4", ""),
        ("adapter", "apart", ""),
        ("data[0]", "tone", "test"),
    ]
    assert "peft" not in graph.nodes["bench:accuracy.apart"].libraries
    assert "peft" in graph.nodes["bench:accuracy.lora"].libraries
    assert edges(graph, "bench:latency")[1:] == [
        ("model[0]", "plain", ""),
        ("model[1]", "int4", ""),
        ("adapter[1]", "apart", ""),
    ]


@pytest.mark.parametrize(
    ("old", "new", "fact"),
    [
        ("base: int4, adapter", "base: plain, adapter", "plain has no slots for adapters"),
        ("base: int4, adapter: lora", "adapter: lora", "it needs `base`"),
        ("base: int4, adapter: lora", "base: int4", "it needs `adapter`, or `source`"),
        ("adapter: lora}", "adapter: lora, source: folder}", "`source` brings an adapter"),
        ("data: tone}\n  plain", "data: tone, dora: true}\n  plain", "can't be kept apart"),
        ("data: tone}\n  plain", "data: tone, method: loha}\n  plain", "can't be kept apart"),
        ("data: tone}\n  plain", "data: tone, method: loftq}\n  plain", "changes the base"),
        ("data: tone}\n  plain", "data: tone, aware: {}}\n  plain", "rounded with its base"),
        ("slots: [v_proj, q_proj]", "slots: []", "slots"),
        ("adapter: lora}", "adapter: lora, stop: [x]}", "stop"),
    ],
)
def test_what_can_not_be_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, fact: str
) -> None:
    assert old in RECIPE
    with pytest.raises(RecipeError) as caught:
        opened(tmp_path, RECIPE.replace(old, new))
    assert fact in caught.value.fact
    assert caught.value.where
