"""A data set of a file that holds no rows by its name is told by a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.planner.checks.all_checks import problems
from tests.support.sites import Site

RECIPE = """\
targets:
  rows:
    kind: dataset
    source: SOURCE
    text: "{t}"
"""


@pytest.mark.parametrize("name", ["rows.py", "rows.xlsx", "rows.jsonl.zip", "rows"])
def test_a_file_that_is_none_of_rows(tmp_path: Path, name: str) -> None:
    site = Site(tmp_path, RECIPE.replace("SOURCE", name))
    site.write(name, "x")
    planner = site.planner()
    (finding,) = problems(planner, planner.plan(["rows"]))
    assert finding.fails
    assert (finding.where.line, finding.target) == (4, "rows")
    assert finding.fact.startswith(f"{name}: files of type ")
    assert ".jsonl" in finding.hint


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.CSV.gz", "rows.parquet", "all.py"])
def test_others_are_read(tmp_path: Path, name: str) -> None:
    site = Site(tmp_path, RECIPE.replace("SOURCE", name))
    # A folder may be called anything.
    site.write(f"{name}/a.jsonl" if name == "all.py" else name, "{}")
    planner = site.planner()
    assert problems(planner, planner.plan(["rows"])) == []
