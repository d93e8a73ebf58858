"""Conda files of systems: read once each, named by executors, and faults of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from tests.recipe.importers.olive.examples import imported, nested


def test_a_file_that_two_systems_name_is_one_environment(tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.10]\n")
    (tmp_path / "other.yaml").write_text("dependencies: [python=3.10]\n")
    value = nested()
    cloud = value["systems"]["cloud"]
    value["systems"]["arc"] = cloud
    docker = {"conda_file_path": "other.yaml"}
    value["systems"]["last"] = {"type": "AzureML", "config": {"aml_docker_config": docker}}
    done = imported(tmp_path, value)
    assert [(e.source, e.name) for e in done.environments] == [
        ("conda.yaml", "environment.yaml"),
        ("other.yaml", "environment-2.yaml"),
    ]
    assert done.recipe.count("conda: environment.yaml") == 2
    assert "olivebuild[cuda]" in done.environments[0].conda.environment


def test_sources_ask_for_extras(tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.10]\n")
    value = nested()
    value["data_configs"][0]["load_dataset_config"]["params"]["data_files"] = "s3://bucket/x.json"
    done = imported(tmp_path, value)
    assert "s3" in done.environments[0].conda.extras


def test_a_file_that_is_no_conda_file_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text("name: x\ndependencies: 3\n")
    with pytest.raises(RecipeError) as caught:
        imported(tmp_path, nested())
    assert str(caught.value.where).startswith("conda.yaml:2")
