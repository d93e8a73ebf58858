"""How a build ends: its exit code, and the last line of its stream."""

from __future__ import annotations

import json

import pytest

from olivebuild.cli.run_build import _exit_code, _print_done
from olivebuild.core.errors import BuildError, RecipeError
from olivebuild.engine.build_report import BuildReport
from olivebuild.metrics.gates import Judgement


def judgement(*, passed: bool) -> Judgement:
    return Judgement("bench", "accuracy >= 0.9", 0.8, passed)


@pytest.mark.parametrize(
    ("errors", "passed", "code"),
    [
        ([], [], 0),
        ([], [True, True], 0),
        ([], [True, False], 3),
        ([BuildError("it failed", hint="look")], [False], 1),
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
    errors: list[BuildError], passed: list[bool], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    report = BuildReport(goals=["a"], errors=errors)
    assert _exit_code(report, [judgement(passed=each) for each in passed]) == code
    shown = capsys.readouterr().err
    assert all(error.fact in shown for error in errors)


def test_the_last_event_tells_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    report = BuildReport(goals=["a"], ran=["a"], restored=["b"], failed=["c"], seconds=1.23456)
    _print_done(report, [judgement(passed=False)])
    (line,) = capsys.readouterr().out.splitlines()
    done = json.loads(line)
    assert (done["event"], done["ran"], done["restored"]) == ("done", ["a"], ["b"])
    assert (done["fresh"], done["failed"], done["seconds"]) == ([], ["c"], 1.235)
    assert done["gates"][0]["passed"] is False
