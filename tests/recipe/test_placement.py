"""Where nodes run: by what the recipe and the command line say, and what can't be sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.file import Recipe
from olivebuild.recipe.graph import Graph, build_graph
from olivebuild.recipe.placement import place

RECIPE = """\
executors:
  here: {kind: local}
  box: {kind: ssh, host: gpu-box}
  cluster: {kind: slurm}
targets:
  base: {kind: model, source: tiny, executor: box}
  tone: {kind: dataset, source: t.jsonl, prompt: "{a}", completion: "{b}"}
  adapter: {kind: adapter, model: base, data: tone.train, executor: box}
  other: {kind: adapter, model: base, data: tone.train}
  kept: {kind: adapter, model: base, data: tone.train, r: 2, executor: here}
  merged: {kind: merged, model: base, adapter: adapter}
  bench: {kind: benchmark, models: [merged, base], data: tone.test, latency: {}, executor: cluster}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return build_graph(Recipe(tmp_path / "olivebuild.yaml", RECIPE))


def targets_of(graph: Graph, routes: dict[str, str]) -> dict[str, str]:
    return {graph.nodes[node].target: executor for node, executor in routes.items()}


def test_targets_run_where_they_say(graph: Graph) -> None:
    placement = place(graph, graph.targets)
    assert targets_of(graph, placement.routes) == {"adapter": "box", "bench": "cluster"}
    assert dict(placement.sent) == {
        "adapter": "adapter runs on box (ssh)",
        "bench": "bench runs on cluster (slurm)",
    }
    assert dict(placement.kept) == {
        "base": "base is read from its source: that is not done on box",
        "bench": "bench measures the speed of this machine: that is not done on cluster",
    }


def test_only_what_goals_need_is_placed(graph: Graph) -> None:
    placement = place(graph, ["merged"])
    assert targets_of(graph, placement.routes) == {"adapter": "box"}
    assert place(graph, ["other"]).routes == {}


def test_the_command_line_takes_what_is_heavy_and_names_none(graph: Graph) -> None:
    placement = place(graph, graph.targets, "cluster")
    sent = targets_of(graph, placement.routes)
    assert sent == {"adapter": "box", "bench": "cluster", "other": "cluster"}
    assert targets_of(graph, place(graph, ["kept", "merged"], "cluster").routes) == {
        "adapter": "box"
    }


def test_local_has_all_run_here(graph: Graph) -> None:
    assert place(graph, graph.targets, "local").routes == {}


def test_an_unknown_executor_is_an_error(graph: Graph) -> None:
    with pytest.raises(RecipeError, match="unknown executor 'bax'") as caught:
        place(graph, graph.targets, "bax")
    assert caught.value.hint == "did you mean box?"
