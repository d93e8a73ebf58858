"""What is collected of a pull request, on a recipe of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.planner.project import open_project
from olivebuild.ui.pull_request.collect import LONGEST, Checkout, collect
from tests.conftest import Place

RECIPE = """\
targets:
  a: {kind: command, run: "python score.py {outputs.x}", files: [score.py], outputs: {x: x.json},
      metrics: x.json}
  WIDE: {kind: command, run: "cp a.txt {outputs.x}", files: [a.txt], outputs: {x: x.txt}}
"""


@pytest.fixture
def checkout(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(place.cache))
    place.recipe.write_text(RECIPE.replace("WIDE", "b"))
    (place.folder / "score.py").write_text("import sys\nopen(sys.argv[1], 'w').write('{}')\n")
    (place.folder / "a.txt").write_text("text")
    return place


def planned(folder: Path) -> Checkout:
    project = open_project(folder, None)
    try:
        return Checkout.of(project, project.graph.goals(()), None)
    finally:
        project.planner.traces.close()


def test_a_plan_has_costs_and_causes(checkout: Place) -> None:
    report = collect(planned(checkout.folder), None, with_rows=False)
    assert {t.target: t.verdict for t in report.targets} == {"a": "stale", "b": "stale"}
    assert report.targets[1].why == "never built here"
    checkout.build("b")
    report = collect(planned(checkout.folder), None, with_rows=False)
    (b,) = [t for t in report.targets if t.target == "b"]
    assert (b.verdict, b.why) == ("fresh", "")
    assert b.seconds is not None


def test_a_name_of_any_length_is_cut(checkout: Place, tmp_path: Path) -> None:
    checkout.edit("a.txt", "a" * 240 + ".txt")
    report = collect(planned(checkout.folder), None, with_rows=False)
    (b,) = [t for t in report.targets if t.target == "b"]
    assert b.verdict == "broken"
    assert len(b.why) <= LONGEST
