"""What is collected of a pull request, on a recipe of commands."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from olivebuild.cache.traces import Trace
from olivebuild.metrics.records import Metrics, read_metrics
from olivebuild.planner.project import open_project
from olivebuild.ui.pull_request.collect import LONGEST, Checkout, _changed, collect
from olivebuild.ui.report.collect.answers import between_checkouts
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


class Told:
    """Evidence of one benchmark: what its models answered to the rows of one data set."""

    # Nothing is stored: the rows are the same by their digest.
    project = SimpleNamespace(planner=SimpleNamespace(store=None))

    def __init__(self, *labels: str) -> None:
        self._labels = labels

    def trace(self, _node: str) -> Trace:
        return Trace("ab" * 16, "dataset", (), {"test": "cd" * 16})

    def benchmark(self, target: str) -> Metrics:
        answers = [{"expected": "joy", "label": label, "tokens": 1} for label in self._labels]
        data = {"rows": len(answers), "accuracy": 0.5, "answers": answers}
        return read_metrics(
            {"models": {"int4": {"data": {"rows": data}}}, "data": ["rows"]}, target
        )


def test_answers_that_change_are_counted_and_their_texts_kept_back() -> None:
    before, now = Told("joy", "joy", "sad", "sad", "joy"), Told("sad", "joy", "joy", "fear", "joy")
    (flips,) = between_checkouts(before, now, "bench")  # type: ignore[arg-type]
    counted = _changed("bench", flips, with_rows=False)
    assert (counted.lost, counted.won, counted.other, counted.rows) == (1, 1, 1, ())
    rows = _changed("bench", flips, with_rows=True).rows
    assert (rows[0].number, rows[0].before, rows[0].now) == (1, "joy", "sad")
    assert list(between_checkouts(now, now, "bench")) == []  # type: ignore[arg-type]
