"""What of a build is sent elsewhere, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core import host
from olivebuild.executors.local import LocalExecutor
from olivebuild.executors.router import Router
from olivebuild.library import placing
from olivebuild.library.executors import BuildOptions
from olivebuild.planner.project import Project, open_project
from olivebuild.recipe.placement import place

RECIPE = """\
executors:
  here: {kind: local}
  box: {kind: ssh, host: gpu-box}
targets:
  base: {kind: model, source: tiny, executor: box}
  tone: {kind: dataset, source: t.jsonl, prompt: "{a}", completion: "{b}"}
  adapter: {kind: adapter, model: base, data: tone.train, executor: box}
  other: {kind: adapter, model: base, data: tone.train, executor: here}
"""
LOCAL = LocalExecutor()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "olivebuild.yaml").write_text(RECIPE)
    return open_project(tmp_path, None)


def options(executor: str) -> BuildOptions:
    return BuildOptions(jobs=1, keep_going=False, resources=(), executor=executor)


def test_what_names_an_executor_is_sent_there(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    executor, is_installed = placing.placed(project, ["adapter"], options(""), LOCAL, print)
    assert isinstance(executor, Router)
    assert executor.place_of("adapter") == "box"
    assert executor.place_of("tone") == ""
    assert not is_installed
    said = capsys.readouterr().out
    assert said == "base is read from its source: that is not done on box\n"


def test_nothing_is_sent_where_nothing_is_to_go(project: Project) -> None:
    assert placing.placed(project, ["tone"], options(""), LOCAL, print) == (LOCAL, False)
    assert placing.placed(project, ["other"], options("box"), LOCAL, print) == (LOCAL, False)


def test_an_executor_of_a_package_runs_all(project: Project) -> None:
    assert placing.placed(project, ["adapter"], options("nice:15"), LOCAL, print) == (LOCAL, True)


def test_libraries_of_steps_have_the_versions_of_the_lock_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "installed", lambda name: None if name == "peft" else "9")
    project.lock.libraries["torch"] = "2.0"
    placement = place(project.graph, ["adapter"])
    versions = placing.libraries_of(project, placement, "box")
    assert (versions["torch"], versions["transformers"]) == ("2.0", "9")
    assert "peft" not in versions
