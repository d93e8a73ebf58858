"""Executors of a recipe are opened from their fields. Nothing is connected to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.executors.declared import open_declared, options_of
from olivebuild.recipe import executors as declared
from olivebuild.recipe.file import Recipe

TARGET = 'targets: {a: {kind: command, run: "cp a {outputs.x}", outputs: {x: x}}}\n'


def recipe(folder: Path, fields: str) -> Recipe:
    return Recipe(folder / "olivebuild.yaml", f"executors:\n  x: {{{fields}}}\n{TARGET}")


def options(folder: Path, fields: str) -> dict[str, str]:
    read = recipe(folder, fields)
    machine = read.executors["x"]
    assert isinstance(machine, declared.Site)
    return options_of(read, machine)


def test_a_launcher_is_told_the_fields_of_its_kind_alone(tmp_path: Path) -> None:
    assert options(tmp_path, "kind: ssh, host: a, root: r, jobs: 2, variables: {A: b}") == {}
    assert options(tmp_path, "kind: python, path: env, variables: {A: b}") == {}
    slurm = options(tmp_path, "kind: slurm, host: a, partition: gpu, options: {nice: 10}")
    assert slurm == {"partition": "gpu", "nice": "10"}
    docker = options(tmp_path, "kind: docker, image: i, variables: {A: 1}, run_args: {network: no}")
    assert docker == {
        "image": "i",
        "variables": json.dumps({"A": "1"}),
        "run_args": json.dumps({"network": "no"}),
    }
    ray = options(tmp_path, "kind: ray, autoscaling: true, variables: {A: b}")
    assert ray == {"autoscaling": "true", "variables": json.dumps({"A": "b"})}


def test_paths_start_at_the_recipe_and_the_environment_of_azure_ml_is_its_own(
    tmp_path: Path,
) -> None:
    fields = (
        "kind: azureml, compute: c, instances: 2, conda: c.yaml, environment: e, hf_token: true"
    )
    assert options(tmp_path, fields) == {
        "compute": "c",
        "instances": "2",
        "conda": str(tmp_path / "c.yaml"),
        "environment": "e",
    }


def test_a_placeholder_is_an_error_with_its_place(tmp_path: Path) -> None:
    read = recipe(tmp_path, 'kind: ssh, host: "<placeholder: your GPU box>"')
    with pytest.raises(RecipeError) as caught:
        open_declared(read, lambda _: {}, "x")
    assert caught.value.fact.startswith("executors.x.host is a placeholder (your GPU box)")
    assert caught.value.where is not None
    assert caught.value.where.line == 2
    assert "--executor local" in caught.value.hint


def test_as_many_jobs_run_there_as_the_recipe_says(tmp_path: Path) -> None:
    assert (
        open_declared(recipe(tmp_path, "kind: ssh, host: a, jobs: 3"), lambda _: {}, "x").jobs == 3
    )
    assert open_declared(recipe(tmp_path, "kind: ssh, host: a"), lambda _: {}, "x").jobs == 16
