"""The actions and workflows for pull requests: what they may, what they pin, and their scripts."""

from __future__ import annotations

import re
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
