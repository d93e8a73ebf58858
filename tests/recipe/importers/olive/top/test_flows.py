"""Flows: order, alternatives, builds, and passes that no flow runs."""

from __future__ import annotations

from pathlib import Path

from olivebuild.recipe.importers.olive.ledger import Fate
from olivebuild.recipe.importers.olive.top.flows import MOST_FLOWS
from tests.recipe.importers.olive.examples import fates, flat, imported, nested, texts


def test_a_pass_that_no_flow_runs_is_told(tmp_path: Path) -> None:
    done = imported(tmp_path, nested(pass_flows=[["onnx"]]))
    assert not done.faults
    assert fates(done)["passes.tune.config.lora_r"].text == "no flow runs tune"
    assert "kind: adapter" not in done.recipe


def test_fields_beside_the_options_are_told_in_both_layouts(tmp_path: Path) -> None:
    beside = {"disable_search": True, "clean_run_cache": True, "output_name": "x"}
    value = nested()
    value["passes"]["tune"] |= beside
    for done, path in (
        (imported(tmp_path, value), "passes.tune"),
        (
            imported(
                tmp_path,
                flat(passes={"onnx": {"type": "ModelBuilder", "precision": "int4", **beside}}),
            ),
            "passes.onnx",
        ),
    ):
        assert not done.faults, texts(done, Fate.REFUSED)
        assert {fates(done)[f"{path}.{key}"].fate for key in beside} == {Fate.NO_EFFECT}


def test_a_search_of_too_many_flows_is_refused(tmp_path: Path) -> None:
    builders = [{"type": "ModelBuilder", "precision": "int4"}] * (MOST_FLOWS + 1)
    done = imported(tmp_path, flat(passes={"onnx": builders}, search_strategy=True))
    assert f"its alternatives are {MOST_FLOWS + 1} flows" in done.error().fact


def test_a_build_may_not_have_a_search_of_its_own(tmp_path: Path) -> None:
    builds = {"a": {"pipeline": ["onnx"], "components": ["x"], "evaluator": "e"}}
    done = imported(tmp_path, flat(builds=builds))
    refused = {entry.path[2]: entry.fatal for entry in done.entries if entry.fate is Fate.REFUSED}
    assert refused == {"components": True, "evaluator": False}


def test_without_passes_the_model_is_the_goal(tmp_path: Path) -> None:
    done = imported(tmp_path, flat(passes={}))
    assert done.default == ("base",)
    assert fates(done)["passes"].text == "it is empty"


def test_one_pass_behind_two_others_is_two_targets(tmp_path: Path) -> None:
    value = nested(pass_flows=[["tune", "merge", "onnx"], ["onnx"]])
    done = imported(tmp_path, value)
    field = fates(done)["passes.onnx.config.precision"].field
    assert field == "onnx.precision, onnx-2.precision"
