"""A model's folder at plan time: the first fault that hides others is told alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.planner.checks.model_folder import ModelFolder


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_configuration_that_is_no_object_is_the_only_finding(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    findings = ModelFolder(tmp_path).findings(trusts=False)
    assert len(findings) == 1
    assert findings[0].fails
    assert "config.json" in findings[0].fact


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    assert [finding.fails for finding in ModelFolder(tmp_path).findings(trusts=False)] == [True]


def test_findings_are_looked_for_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    model = ModelFolder(tmp_path)
    first = model.findings(trusts=False)
    (tmp_path / "config.json").unlink()
    assert model.findings(trusts=False) is first
