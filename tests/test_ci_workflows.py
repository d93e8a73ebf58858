"""The actions and workflows for pull requests: what they may, what they pin, and their scripts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ACTIONS = sorted(ROOT.glob(".github/actions/*/action.yml"))
WORKFLOWS = sorted(ROOT.glob("examples/ci/olivebuild-*.yml"))


def read(path: Path) -> dict[str, Any]:
    # `on` is true in YAML 1.1.
    data: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return {("on" if key is True else key): value for key, value in data.items()}


def steps(path: Path) -> Iterator[dict[str, Any]]:
    data = read(path)
    if "runs" in data:
        yield from data["runs"]["steps"]
    for job in data.get("jobs", {}).values():
        yield from job["steps"]


def test_there_are_some() -> None:
    assert len(ACTIONS) == 2
    assert len(WORKFLOWS) == 3


@pytest.mark.parametrize("path", [*ACTIONS, *WORKFLOWS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_is_used_is_pinned_and_no_script_is_put_together(path: Path) -> None:
    for step in steps(path):
        if used := step.get("uses"):
            assert re.search(r"@([0-9a-f]{40}|COMMIT)$", used)
        # An expression in a script is a stranger's text in a shell; variables are not.
        assert "${{" not in step.get("run", "")
        # What is imported from a checkout is a stranger's.
        for line in step.get("run", "").splitlines():
            assert "python -m" not in line


def test_the_workflow_of_pull_requests_has_nothing_to_steal() -> None:
    path = ROOT / "examples/ci/olivebuild-plan.yml"
    workflow = read(path)
    assert list(workflow["on"]) == ["pull_request"]
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text("utf-8")
    (checkout,) = [s for s in steps(path) if "checkout" in s.get("uses", "")]
    assert checkout["with"] == {"persist-credentials": False}
    assert not any("build" in s.get("with", {}) for s in steps(path))


def test_the_workflow_that_comments_takes_nothing_of_the_pull_request() -> None:
    path = ROOT / "examples/ci/olivebuild-comment.yml"
    workflow = read(path)
    assert list(workflow["on"]) == ["workflow_run"]
    assert workflow["permissions"] == {}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    action = ROOT / ".github/actions/comment/action.yml"
    for step in [*steps(path), *steps(action)]:
        assert "checkout" not in step.get("uses", "")
        assert not re.search(r"\bgit\b|head_sha|head_branch", step.get("run", ""))


def test_a_fork_is_never_built() -> None:
    (build,) = [
        s
        for s in steps(ROOT / ".github/actions/plan/action.yml")
        if " build --" in s.get("run", "")
    ]
    condition = " ".join(build["if"].split())
    assert condition == (
        "inputs.build == 'true' && (github.event_name != 'pull_request' || "
        "github.event.pull_request.head.repo.full_name == github.repository)"
    )


RECIPE = """\
targets:
  first: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
"""
HOSTILE = "first; touch stolen; $(touch stolen) `touch stolen`"


class Runner:
    """What a runner of GitHub has: a checkout of a pull request, and `olivebuild` on its path."""

    def __init__(self, root: Path) -> None:
        self.root, self.checkout, self.temp = root, root / "checkout", root / "temp"
        self.upstream = root / "upstream"
        for folder in (root / "bin", self.temp, self.upstream / "recipes" / "a b"):
            folder.mkdir(parents=True)
        program = root / "bin" / "olivebuild"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m olivebuild "$@"\n')
        program.chmod(0o755)
        (self.upstream / "recipes/a b/olivebuild.yaml").write_text(RECIPE)
        (self.upstream / "recipes/a b/in.txt").write_text("text")
        git = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org")
        for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
            subprocess.run([*git, *words], cwd=self.upstream, check=True, capture_output=True)
        clone = [*git, "clone", "-q", self.upstream.as_uri(), str(self.checkout)]
        subprocess.run(clone, check=True, capture_output=True)
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], cwd=self.upstream, check=True, capture_output=True
        )
        self.base = head.stdout.decode().strip()

    def step(self, action: str, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script of a step, as a runner does: `bash -e` in the checkout."""
        path = ROOT / ".github/actions" / action / "action.yml"
        (step,) = [s for s in steps(path) if s.get("name") == name]
        assert variables.keys() <= step["env"].keys()
        environment = {
            **os.environ,
            **dict.fromkeys((*step["env"], "GITHUB_ACTIONS", "GITLAB_CI"), ""),
            "PATH": f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "RUNNER_TEMP": str(self.temp),
            "OLIVEBUILD_CACHE": str(self.root / "cache"),
            **variables,
        }
        words = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
        folder = self.temp if "working-directory" in step else self.checkout
        return subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )


@pytest.mark.skipif(
    os.name != "posix" or not shutil.which("bash") or not shutil.which("git"),
    reason="needs bash and git",
)
def test_the_scripts_run(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    job = {"RECIPE": "recipes/a b", "TARGETS": "first"}
    name = "Check out the branch that the pull request is for"
    done = runner.step("plan", name, BASE=runner.base)
    assert done.returncode == 0, done.stderr
    (runner.checkout / "recipes/a b/in.txt").write_text("other text")
    done = runner.step("plan", "Plan", **job)
    assert done.returncode == 0, done.stderr
    report = runner.temp / "olivebuild-report/report.json"
    assert [t["verdict"] for t in json.loads(report.read_text())["targets"]] == ["stale"]
    done = runner.step("plan", "Build what the cache lacks", **job)
    assert done.returncode == 0, done.stderr
    runner.step("plan", "Plan", **job)
    assert [t["verdict"] for t in json.loads(report.read_text())["targets"]] == ["fresh"]
    # Outside of GitHub the comment is printed.
    done = runner.step("comment", "Comment")
    assert done.stdout.startswith("<!-- olivebuild")
    for hostile in ({"TARGETS": HOSTILE}, {"RECIPE": HOSTILE}):
        assert runner.step("plan", "Plan", **{**job, **hostile}).returncode != 0
        assert runner.step("plan", "Build what the cache lacks", **{**job, **hostile}).returncode
    assert list(tmp_path.rglob("stolen")) == []
