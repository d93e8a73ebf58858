"""Evaluators and searches: benchmarks, gates and choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.recipe.importers.olive.ledger import Fate
from olivebuild.recipe.validate import check
from olivebuild.steps.benchmark import BenchmarkFields
from olivebuild.steps.choice import ChoiceFields
from tests.recipe.importers.olive.examples import fates, flat, imported, nested, texts

SPEED = {
    "name": "speed",
    "type": "latency",
    "sub_types": [
        {
            "name": "avg",
            "priority": 1,
            "metric_config": {"warmup_num": 3},
            "goal": {"type": "threshold", "value": 20},
        },
        {"name": "p90"},
    ],
    "user_config": {"user_script": "s.py", "dataloader_func": "f", "io_bind": True},
}
ANSWERS = {
    "name": "answers",
    "type": "accuracy",
    "sub_types": [{"name": "perplexity", "priority": 2, "higher_is_better": False}],
    "data_config": "letters",
}


def workflow(*metrics: dict[str, Any], **engine: Any) -> dict[str, Any]:
    value = nested(evaluators={"e": {"metrics": list(metrics)}, "other": {"metrics": []}})
    value["engine"] = {"evaluator": "e", **engine}
    return value


def test_an_evaluator_is_a_benchmark_of_the_results(tmp_path: Path) -> None:
    done = imported(tmp_path, workflow(SPEED, ANSWERS))
    assert not done.faults
    bench = check(done.recipe, "r.yaml").targets["bench"].fields
    assert isinstance(bench, BenchmarkFields)
    assert [str(m) for m in bench.models] == ["base", "onnx"]
    assert [d.target for d in bench.data_sets] == ["letters-2"]
    by_path = fates(done)
    assert by_path["evaluators.e.metrics[1].sub_types[0].name"].field == "bench.perplexity"
    goal = by_path["evaluators.e.metrics[0].sub_types[0].goal.value"]
    assert (goal.fate, "searches nothing" in goal.text) == (Fate.MEANT_ELSE, True)
    assert by_path["evaluators.e.metrics[0].user_config.user_script"].fate is Fate.NO_EFFECT
    assert by_path["evaluators.other.metrics"].text == "`evaluator` does not name it"


def test_a_search_chooses_among_what_it_built(tmp_path: Path) -> None:
    value = workflow(SPEED, search_strategy={"execution_order": "joint", "sampler": "random"})
    value["passes"]["onnx"] = [
        {"type": "ModelBuilder", "precision": "int4"},
        {"type": "ModelBuilder", "precision": "int8"},
    ]
    value["systems"]["cloud"]["config"].pop("aml_docker_config")
    done = imported(tmp_path, value)
    assert not done.faults, texts(done, Fate.REFUSED)
    recipe = check(done.recipe, "r.yaml")
    choice = recipe.targets["best"].fields
    assert isinstance(choice, ChoiceFields)
    assert (str(choice.by), choice.best, choice.gates) == ("bench", "tpot", ["tpot <= 20 ms"])
    assert [n for n, t in recipe.targets.items() if t.kind == "onnx"] == ["onnx", "onnx-2"]
    assert done.default == ("best",)


def test_without_a_search_the_first_alternative_runs(tmp_path: Path) -> None:
    value = nested()
    value["passes"]["onnx"] = [
        {"type": "ModelBuilder", "precision": "int4"},
        {"type": "ModelBuilder", "precision": "int8"},
    ]
    done = imported(tmp_path, value)
    assert not done.faults
    assert done.default == ("onnx",)
    text = fates(done)["passes.onnx[1].precision"].text
    assert text == "without a search only the first alternative runs"


@pytest.mark.parametrize(
    ("metric", "path", "fatal"),
    [
        ({"type": "custom", "user_config": {"evaluate_func": "f"}}, "type", False),
        ({"type": "accuracy", "sub_types": [{"name": "auroc"}]}, "sub_types[0].name", False),
        ({"type": "speed"}, "type", True),
        ({"type": "latency", "sub_types": [1]}, "sub_types[0]", True),
        ({"type": "latency", "sub_types": [{"name": "avg", "prio": 1}]}, "sub_types[0].prio", True),
        (
            {
                "type": "latency",
                "sub_types": [
                    {"name": "avg", "goal": {"type": "percent-min-improvement", "value": 5}}
                ],
            },
            "sub_types[0].goal.value",
            False,
        ),
    ],
)
def test_what_no_benchmark_measures_is_refused(
    tmp_path: Path, metric: dict[str, Any], path: str, fatal: bool
) -> None:
    done = imported(tmp_path, workflow(metric))
    entry = fates(done)[f"evaluators.e.metrics[0].{path}"]
    assert (entry.fate, entry.fatal) == (Fate.REFUSED, fatal)
    assert entry.hint


def test_tasks_of_another_library_are_named(tmp_path: Path) -> None:
    value = nested(evaluators={"e": {"type": "LMEvaluator", "tasks": ["t"]}})
    value["engine"] = {"evaluator": "e"}
    done = imported(tmp_path, value)
    assert not done.faults
    assert "LMEvaluator" in fates(done)["evaluators.e.tasks[0]"].text


def test_an_evaluator_without_metrics_measures_nothing(tmp_path: Path) -> None:
    done = imported(tmp_path, flat(evaluators={"common": {}}, evaluator="common"))
    assert not done.faults
    assert fates(done)["evaluators.common"].fate is Fate.NO_EFFECT
    assert "bench" not in done.recipe
