"""How a build ends: its exit code, and the last line of its stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from olivebuild.cli.run_build import _exit_code, _print_done, _product
from olivebuild.core.errors import BuildError, RecipeError
from olivebuild.engine.build_report import BuildReport
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.metrics.gates import Judgement, State
from olivebuild.planner.states import Verdict
from tests.conftest import RECIPE, Place
from tests.support.sites import Site


def judgement(state: State, *, strict: bool = False) -> Judgement:
    gate = "accuracy >= 0.9"
    return Judgement(
        target="bench", gate=gate, value=0.8, passed=state == "met", state=state, strict=strict
    )


@pytest.mark.parametrize(
    ("errors", "states", "code"),
    [
        ([], [], 0),
        ([], ["met", "undecided"], 0),
        ([], ["met", "missed"], 3),
        ([BuildError("it failed", hint="look")], ["missed"], 1),
        (
            [
                BuildError("it failed", hint="look"),
                RecipeError("it is missing", where="a", hint="look"),
            ],
            [],
            2,
        ),
    ],
)
def test_errors_come_before_missed_gates(
    errors: list[BuildError], states: list[State], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    report = BuildReport(goals=["a"], errors=errors)
    assert _exit_code(report, [judgement(each) for each in states]) == code
    shown = capsys.readouterr().err
    assert all(error.fact in shown for error in errors)


def test_a_strict_gate_that_is_not_decided_is_missed() -> None:
    report = BuildReport(goals=["a"])
    assert _exit_code(report, [judgement("undecided", strict=True)]) == 3


def test_the_last_event_tells_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    report = BuildReport(goals=["a"], ran=["a"], restored=["b"], failed=["c"], seconds=1.23456)
    said = Diagnostic(code="one-label", severity="error", text="it answers one label")
    _print_done(report, [judgement("missed")], [said])
    (line,) = capsys.readouterr().out.splitlines()
    done = json.loads(line)
    assert (done["event"], done["ran"], done["restored"]) == ("done", ["a"], ["b"])
    assert (done["fresh"], done["failed"], done["seconds"]) == ([], ["c"], 1.235)
    assert done["gates"][0]["passed"] is False
    assert done["diagnostics"][0]["text"] == "it answers one label"


def test_the_model_that_a_build_was_for_is_the_goal_or_what_it_judged(tmp_path: Path) -> None:
    site = Site(tmp_path, RECIPE)
    site.write("data/tone.jsonl", '{"phrase": "a", "tone": "b"}\n')
    plan = site.planner().plan(["onnx-int4"], with_faults=True)
    for name in ("adapter", "merged", "onnx-int4"):
        folder = tmp_path / name
        folder.mkdir()
        plan.states[name] = replace(plan.states[name], verdict=Verdict.FRESH, folder=folder)

    def product(*goals: str) -> str:
        state = _product(BuildReport(goals=list(goals), plan=plan))
        return state.node.target if state else ""

    assert product("onnx-int4") == product("adapter", "onnx-int4") == "onnx-int4"
    assert product("adapter") == "adapter"
    # A benchmark is no model: the one that is furthest along is what it was for.
    assert product("bench") == "onnx-int4"
    (tmp_path / "onnx-int4").rmdir()
    assert product("bench") == "merged"


def test_a_build_of_no_model_names_none(place: Place) -> None:
    place.recipe.write_text("targets:\n  a: {kind: command, run: 'true', outputs: {}}\n")
    assert "chat" not in place.run("a").out
