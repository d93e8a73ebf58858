"""The result of an action that ended well: stored, traced and published, or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from olivebuild.api.action import Outcome
from olivebuild.api.result import Result
from olivebuild.core.errors import InputError, StepError
from olivebuild.core.hashing import of_bytes
from olivebuild.engine.commit import Commit, RunningAction, remember_fresh
from olivebuild.planner.plan import Planner
from tests.support.sites import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def commit_of(
    site: Site, planner: Planner, notes: list[str], text: str | None, **result: object
) -> Commit:
    """The commit of the first target, whose step wrote `text`, or nothing."""
    plan = planner.plan(["a"])
    scratch = planner.store.scratch("a")
    (scratch / "out").mkdir()
    if text is not None:
        (scratch / "out/x.txt").write_text(text)
    action = RunningAction(state=plan.states["a"], inputs=[], scratch=scratch, lock=io.BytesIO())
    outcome = Outcome("a", 1.5, 7, Result(**result), numerics={"x": "y"})  # type: ignore[arg-type]
    return Commit(planner, action, outcome, notes.append)


def test_a_result_is_stored_traced_and_published(site: Site) -> None:
    planner, notes = site.planner(), list[str]()
    trace = commit_of(site, planner, notes, "1", metrics={"rate": 0.5}).run()
    assert trace.outputs["x"] == of_bytes(b"1")
    assert (trace.seconds, trace.peak_rss, trace.metrics) == (1.5, 7, {"rate": 0.5})
    assert planner.traces.get(trace.key) == trace
    assert (site.folder / "build/a/x.txt").read_text() == "1"
    assert planner.workspace.last["a"].key == trace.key
    assert notes == []
    planner.workspace.save()
    planner.traces.close()
    assert site.verdicts("a") == {"a": "fresh"}


@pytest.mark.parametrize("fault", ["an output is missing", "an input changed", "a broken manifest"])
def test_a_fault_leaves_no_trace(site: Site, fault: str) -> None:
    planner = site.planner()
    result = {"manifest": "0" * 32} if fault == "a broken manifest" else {}
    text = None if fault == "an output is missing" else "1"
    commit = commit_of(site, planner, [], text, **result)
    if fault == "an input changed":
        site.write("in.txt", "another content")
    words = {
        "an output is missing": "a ended well but did not make x",
        "an input changed": "in.txt changed while a was being built",
        "a broken manifest": "a ended well but stored something broken",
    }
    with pytest.raises((StepError, InputError), match=words[fault]):
        commit.run()
    assert not (site.folder / "build/a").exists()
    assert "a" not in planner.workspace.last
    planner.traces.close()
    assert site.verdicts("a") == {"a": "stale"}


def test_another_result_from_equal_inputs_is_told(site: Site) -> None:
    site.made("a", x="1")
    site.blob("1").unlink()
    (site.folder / "build/a/x.txt").unlink()
    planner, notes = site.planner(), list[str]()
    commit_of(site, planner, notes, "2").run()
    assert notes == [
        "the same inputs gave another result than on the last run (a is not deterministic)"
    ]
    [*_, reason] = planner.workspace.last["a"].reasons
    assert reason.what == "another result from equal inputs"
    planner.traces.close()


def test_what_is_fresh_without_being_made_here_is_remembered(site: Site) -> None:
    site.made("a", x="1")
    planner = site.planner()
    plan = planner.plan(["a"])
    del planner.workspace.last["a"]
    remember_fresh(planner.workspace, plan)
    assert planner.workspace.last["a"].key == plan.states["a"].key
    planner.traces.close()
