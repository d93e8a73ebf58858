"""Early decisions as judgements, and beside what all rows say."""

from __future__ import annotations

import pytest

from olivebuild.api.node import Outline
from olivebuild.core.errors import RecipeError
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.early.judgements import check_gates, differing, early_judgements
from olivebuild.metrics.early_decision import Standing
from olivebuild.metrics.gates import Judgement, State
from olivebuild.recipe.file import Recipe
from olivebuild.recipe.graph import Graph

GATE = "accuracy >= 0.8"


def _standing(state: State, *, strict: bool = False) -> Standing:
    return Standing(
        gate=GATE, state=state, rows=64, of=400, value=0.9, interval=(0.81, 0.97), strict=strict
    )


def _report(state: State, *, strict: bool = False, stopped: bool = True) -> BuildReport:
    early = {("bench", GATE): _standing(state, strict=strict)}
    return BuildReport(goals=["bench"], early=early, stopped=["bench"] if stopped else [])


def _judged(state: State) -> Judgement:
    return Judgement(target="bench", gate=GATE, value=0.9, passed=state == "met", state=state)


@pytest.mark.parametrize(
    ("state", "strict", "fails"),
    [
        ("met", False, False),
        ("missed", False, True),
        ("undecided", False, False),
        ("undecided", True, True),
    ],
)
def test_a_benchmark_that_was_ended_is_judged_by_what_stood(
    state: State, strict: bool, fails: bool
) -> None:
    (judged,) = early_judgements(_report(state, strict=strict))
    assert (judged.state, judged.passed, judged.fails) == (state, state == "met", fails)
    assert judged.interval == (0.81, 0.97)


def test_a_benchmark_that_is_made_is_judged_by_its_table_alone() -> None:
    assert not early_judgements(_report("met", stopped=False))


def test_all_rows_that_say_otherwise_are_told() -> None:
    report = _report("met", stopped=False)
    assert not differing(report, [_judged("met")])
    assert differing(report, [_judged("undecided")]) == [_judged("undecided")]


def test_where_nothing_has_gates_there_is_nothing_to_decide() -> None:
    outlines = {
        "onnx": Outline("onnx", "onnx"),
        "bench": Outline("bench", "benchmark", gated=True),
        "best": Outline("best", "choice", gated=True),
    }
    graph = Graph(recipe=Recipe.__new__(Recipe), targets=outlines, default=[])
    check_gates(graph, ["onnx", "bench"])
    with pytest.raises(RecipeError, match="nothing to decide: no gates in onnx, best"):
        check_gates(graph, ["onnx", "best"])
