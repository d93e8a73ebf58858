"""What of a plan has changed since somebody looked."""

from __future__ import annotations

from pathlib import Path

from olivebuild.planner.changing.changes import Changes
from tests.support.sites import Site


def test_who_looks_again_sees_what_changed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    planner = site.planner()
    plan = planner.plan(["c"])
    changes = Changes(plan)
    assert changes.take() == ["a", "b", "c"]
    assert changes.take() == []
    late = Changes(plan)
    index = plan.by_key
    before = plan.states["a"].key
    assert before
    assert index.names_of([before]) == {"a"}
    site.made("a", x="text")
    planner.update(plan, ["a"])
    # It has a result now, so that its user has a key.
    assert {"a", "b"} <= set(changes.take())
    assert changes.take() == []
    assert late.take() == ["a", "b", "c"]
    key = plan.states["b"].key
    assert key
    assert index.names_of([key, "no key"]) == {"b"}
    assert plan.with_equal_keys(["a"]) == {"a"}
    planner.traces.close()


def test_nodes_with_equal_keys(tmp_path: Path) -> None:
    row = "{kind: command, run: 'cp {outputs.x}', files: [in.txt], outputs: {x: x.txt}}"
    site = Site(tmp_path, f"targets:\n  a: {row}\n  b: {row}\n")
    planner = site.planner()
    plan = planner.plan(["a", "b"])
    assert plan.with_equal_keys(["a"]) == {"a", "b"}
    planner.traces.close()


def test_one_node_of_each_sort_stands_for_those_that_would_run(tmp_path: Path) -> None:
    row = "{kind: command, run: 'cp {outputs.x}', files: [in.txt], outputs: {x: x.txt}}"
    site = Site(tmp_path, f"targets:\n  a: {row}\n  b: {row}\n  c: {row}\n")
    planner = site.planner()
    plan = planner.plan(["a", "b", "c"])
    kinds = plan.stale_kinds
    assert [node.name for node in kinds.one_of_each(["command"], but="a")] == ["b"]
    assert kinds.one_of_each(["dataset"], but="a") == []
    site.made("a", x="text")
    planner.update(plan, ["a", "b", "c"])
    # All have the key of what was made.
    assert kinds.one_of_each(["command"], but="") == []
    planner.traces.close()
