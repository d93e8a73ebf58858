"""What a report is made from: what each node last made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.planner.project import open_project
from olivebuild.ui.report.collect.evidence import Evidence
from tests.support.sites import Site


def evidence_of(site: Site) -> Evidence:
    project = open_project(site.folder, None)
    return Evidence(project, project.planner.plan(["c"]), [])


def test_what_a_node_made_is_that_of_now_or_else_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(site.cache))
    assert evidence_of(site).trace("a") is None
    site.made("a", x="1")
    first = evidence_of(site).trace("a")
    assert first
    site.write("in.txt", "changed")
    # Not built under its new key yet.
    evidence = evidence_of(site)
    assert evidence.plan.states["a"].key != first.key
    assert evidence.trace("a") == first
    assert evidence.metrics("a") == {}
    assert evidence.benchmark("a").models == {}
    assert evidence.trace("nothing") is None


def test_what_a_failed_run_dropped_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(site.cache))
    evidence = evidence_of(site)
    log = evidence.project.workspace.log_file("b")
    drops = [{"why": "empty", "count": 1, "first": ""}]
    log.with_suffix(".report.json").write_text(json.dumps({"read": 3, "drops": drops}))
    assert evidence.failed("b") == "1 of 3 rows dropped: 1 x empty"
    assert evidence.failed("c") == ""
