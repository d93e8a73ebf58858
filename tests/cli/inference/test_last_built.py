"""What was built last, of targets that are stale, and what a build of them would cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.cli.inference.last_built import has_last, last_folder, pending
from olivebuild.core.errors import BuildError
from tests.conftest import Place
from tests.support.sites import Site


def test_what_is_pending_names_the_first_target_and_its_reason(tmp_path: Path) -> None:
    stale = pending(Site(tmp_path).planner().plan(["c"]))
    assert stale
    assert (stale.target, stale.seconds, stale.is_whole) == ("a", None, False)
    assert [reason.cause for reason in stale.reasons] == ["new"]


def test_what_was_never_built_has_no_last_result(tmp_path: Path) -> None:
    planner = Site(tmp_path).planner()
    state = planner.plan(["a"]).states["a"]
    assert not has_last(planner, state)
    with pytest.raises(BuildError, match="it was never built here"), last_folder(planner, state):
        pass


COPY = 'targets:\n  a: {kind: command, run: "cp in.txt {outputs.x}", outputs: {x: x.txt}}\n'


def test_the_last_result_is_in_build_or_comes_from_the_cache(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olivebuild.planner.project import open_project

    monkeypatch.setenv("OLIVEBUILD_CACHE", str(place.cache))
    place.recipe.write_text(COPY)
    (place.folder / "in.txt").write_text("one")
    assert place.run("a").code == 0
    (place.folder / "in.txt").write_text("two")
    planner = open_project(place.folder, None).planner
    plan = planner.plan(["a"])
    stale = pending(plan)
    assert stale
    assert (stale.is_whole, stale.seconds is not None) == (True, True)
    with last_folder(planner, plan.states["a"]) as (folder, digest):
        assert folder == place.folder / "build/a"
        assert (folder / "x.txt").read_text() == "one"
    (place.folder / "build/a/x.txt").write_text("edited by hand")
    with last_folder(planner, plan.states["a"]) as (other, same):
        assert (other / "x.txt").read_text() == "one"
        assert (other != folder, same) == (True, digest)
    assert not other.exists()
    assert (place.folder / "build/a/x.txt").read_text() == "edited by hand"
