"""What a build can't make: each cause is told once, and what only it needs is not made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olivebuild.api.node import Node
from olivebuild.core.errors import StepError
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.failures import Failures
from tests.support.sites import Site


def failures_of(site: Site, *goals: str) -> tuple[Failures, BuildReport, list[Any], Any]:
    planner, told = site.planner(), list[Any]()

    def say(event: str, node: Node, **data: object) -> None:
        told.append((event, node.name, data))

    report = BuildReport(goals=list(goals))
    plan = planner.plan(planner.graph.goals(goals), with_faults=True)
    planner.traces.close()
    return Failures(planner, report, say), report, told, plan


def test_what_waits_for_a_failed_node_is_not_made(tmp_path: Path) -> None:
    failures, report, told, plan = failures_of(Site(tmp_path), "c")
    failures.add(plan.states["b"].node, StepError("it broke", hint="mend it"))
    failures.check(plan)
    # The first is an input of what failed alone.
    assert [name for name in "abc" if name in failures] == ["a", "b", "c"]
    assert (report.failed, [error.fact for error in report.errors]) == (["b"], ["it broke"])
    assert told == [("failed", "b", {"fact": "it broke", "where": "", "hint": "mend it"})]


def test_an_input_that_is_a_goal_itself_is_made(tmp_path: Path) -> None:
    failures, _, _, plan = failures_of(Site(tmp_path), "a", "c")
    failures.add(plan.states["b"].node, StepError("it broke", hint=""))
    failures.check(plan)
    assert [name for name in "abc" if name in failures] == ["b", "c"]


def test_what_cannot_be_read_is_told_once_and_before_anything_runs(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (site.folder / "in.txt").unlink()
    failures, report, told, plan = failures_of(site, "c")
    failures.check(plan)
    failures.check(plan)
    assert report.failed == ["a"]
    assert [(event, name) for event, name, _ in told] == [("failed", "a")]
    assert all(name in failures for name in "abc")


def test_nothing_fails_where_all_is_made(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.made("a", x="1")
    site.made("b", y="1")
    site.made("c", z="1")
    failures, report, told, plan = failures_of(site, "c")
    failures.check(plan)
    assert (report.errors, told) == ([], [])
    assert not any(name in failures for name in "abc")
