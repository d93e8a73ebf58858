"""A benchmark: the nodes that it is made of, and the table that puts their figures together."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.ml.kinds.benchmark import run
from olivebuild.recipe.file import load
from olivebuild.steps.benchmark import STEP, BenchmarkFields
from tests.support.sites import Site

RECIPE = """\
targets:
  base: {kind: model, source: base}
  tone: {kind: dataset, source: rows.jsonl, text: "{a}"}
  adapter: {kind: adapter, model: base, data: tone.train, training: {lr: 1e-3, steps: 4}}
  merged: {kind: merged, model: base, adapter: adapter}
  bench: {kind: benchmark, models: [base, adapter, merged], data: tone, baseline: tone.train,
    seeds: 2}
"""


def test_each_measurement_is_a_node_of_its_own(tmp_path: Path) -> None:
    targets = load(Site(tmp_path, RECIPE).folder / "olivebuild.yaml").targets
    nodes = {node.name: node for node in STEP.nodes(targets["bench"], targets)}
    assert {node.target for node in nodes.values()} == {"bench"}
    kinds = [node.kind for node in nodes.values()]
    # Two models and an adapter, of which one model and the adapter are trained again.
    assert kinds.count("benchmark-accuracy") == 5
    assert kinds.count("benchmark-latency") == kinds.count("benchmark-baseline") == 1
    table = nodes["bench"]
    assert table.kind == "benchmark"
    parts = {edge.sibling for edge in table.edges if edge.sibling}
    assert {f"bench:{part}" for part in parts} <= nodes.keys()
    # The split keeps training and test rows of one data set apart.
    assert "benchmark-overlap" not in kinds


def test_rows_of_other_data_sets_are_compared_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = RECIPE.replace("data: tone, baseline", "data: [tone, hard], baseline") + (
        '  hard: {kind: dataset, source: hard.jsonl, text: "{a}", holdout: 1}\n'
    )
    targets = load(Site(tmp_path, recipe).folder / "olivebuild.yaml").targets
    nodes = {node.name: node for node in STEP.nodes(targets["bench"], targets)}
    overlap = nodes["bench:overlap"]
    assert overlap.fields["train"] == ["tone"]
    assert overlap.fields["pairs"] == [[0, 1, 1]]
    assert [(e.role, str(e.ref)) for e in overlap.edges] == [
        ("train[0]", "tone.train"),
        ("data[0]", "tone"),
        ("data[1]", "hard"),
    ]
    assert "overlap" in [edge.role for edge in nodes["bench"].edges]
    assert dict(nodes["bench"].parameters)["lineage.merged.source"] == '"adapter"'


def test_the_table_has_the_figures_of_its_parts(tmp_path: Path) -> None:
    parts = {
        "accuracy[0]": [{"rows": 4, "accuracy": 0.5}],
        "accuracy[1]": [{"rows": 4, "accuracy": 0.75}],
        "latency": {
            "models": [{"ttft": 0.2}, {"ttft": 0.1}],
            "latency": {"rounds": 3},
        },
        "check.int4": {"what": "onnx"},
        "baseline": {"naive bayes": [{"rows": 4, "accuracy": 0.25}]},
    }
    inputs = {}
    for role, figures in parts.items():
        folder = tmp_path / role
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(figures))
        inputs[role] = ActionInput(str(folder), str(folder), "benchmark", "bench")
    sizes = tmp_path / "sizes.json"
    sizes.write_text("[10, 5]")
    inputs["sizes"] = ActionInput(str(tmp_path), str(sizes), "benchmark-structure", "bench")
    out = tmp_path / "out"
    out.mkdir()
    fields: dict[str, object] = {
        "models": ["base", "int4"],
        "data": "tone",
        "baseline": "tone.train",
    }
    BenchmarkFields.model_validate(fields)
    action = Action("t", "t", "benchmark", "0" * 32, fields, inputs, {}, str(tmp_path), str(out))
    job = Job(action, io.StringIO())
    run(job)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["data"] == ["tone"]
    assert metrics["latency"] == {"rounds": 3}
    assert metrics["models"] == {
        "base": {"data": {"tone": parts["accuracy[0]"][0]}, "ttft": 0.2, "size": 10},  # type: ignore[index]
        "int4": {
            "data": {"tone": parts["accuracy[1]"][0]},  # type: ignore[index]
            "ttft": 0.1,
            "size": 5,
            "check": {"what": "onnx"},
        },
    }
    assert metrics["baselines"] == {"naive bayes": {"tone": {"rows": 4, "accuracy": 0.25}}}


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"models": ["a", "a"]}, "a model is listed twice"),
        ({"data": ["tone", "tone"]}, "a data set is listed twice"),
        ({"score": "s.py:accuracy"}, "there is more than one figure 'accuracy'"),
    ],
)
def test_a_benchmark_names_each_thing_once(fields: dict[str, object], fact: str) -> None:
    values = {"models": ["a", "b"], "data": "tone"} | fields
    problem = STEP.check(BenchmarkFields.model_validate(values))
    assert problem
    assert problem.fact == fact
