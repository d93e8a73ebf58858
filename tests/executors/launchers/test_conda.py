"""Conda files for machines to which olivebuild's code is brought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from olivebuild.core import host
from olivebuild.core.errors import InputError
from olivebuild.executors.launchers.conda import dependencies, libraries
from olivebuild.recipe.importers.conda import read_conda

TEXT = """\
name: x
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip:
      - --extra-index-url https://example.org/simple
      - olivebuild[cuda,s3] @ file:///a/checkout
      - einops
      - numpy<2
variables: {A: b}
"""


def pip(data: dict[str, Any]) -> list[str]:
    return list(next(e["pip"] for e in data["dependencies"] if isinstance(e, dict)))


def test_olivebuild_becomes_its_libraries_in_the_versions_of_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "environment.yaml"
    file.write_text(TEXT)
    data = dependencies(str(file))
    lines = pip(data)
    assert data["dependencies"][:2] == ["python=3.11", "pip"]
    assert data["variables"] == {"A": "b"}
    # What the file says itself stands.
    assert lines[:3] == ["--extra-index-url https://example.org/simple", "einops", "numpy<2"]
    assert [line for line in lines if line.startswith("numpy")] == ["numpy<2"]
    assert not [line for line in lines if line.startswith("olivebuild")]
    names = {Requirement(line).name for line in lines[1:]}
    assert {"torch", "onnxruntime-gpu", "obstore", "botocore", "click"} <= names
    assert f"torch=={host.installed('torch')}" in lines
    assert "onnxruntime" not in names


def test_what_an_import_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.8, pip: [transformers, einops]]")
    conda = read_conda(tmp_path / "conda.yaml", shown="conda.yaml", provider="cuda")
    file = tmp_path / "environment.yaml"
    file.write_text(conda.environment)
    lines = pip(dependencies(str(file)))
    assert not [line for line in lines if "olivebuild" in line]
    assert f"transformers=={host.installed('transformers')}" in lines


def test_a_file_of_requirements(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# mine\neinops==0.8\n\nolivebuild\n")
    lines = pip(dependencies("", str(file)))
    assert lines[0] == "einops==0.8"
    assert any(line.startswith("onnxruntime==") for line in lines)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("a: [", "it is no YAML"),
        ("3", "it is no conda file"),
        ("dependencies: 3", "it is no conda file"),
        ("dependencies: [pip: 3]", "its `pip` is no list"),
        (None, "it can't be read"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, fact: str) -> None:
    file = tmp_path / "environment.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=fact) as e:
        dependencies(str(file))
    assert str(e.value.where) == str(file)


def test_versions_of_what_is_not_installed_here_are_as_declared() -> None:
    assert any(line.startswith("onnxruntime-genai-cuda>=") for line in libraries({"cuda"}))
