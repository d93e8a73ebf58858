"""Fields of an executor become the connection that they describe."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.executors.connections.opening import connect
from olivebuild.executors.connections.ssh import SshConnection
from olivebuild.executors.connections.words import WordsConnection
from olivebuild.executors.site.connection import Connection, LocalConnection
from olivebuild.recipe import executors as declared
from olivebuild.recipe.file import Recipe

TARGET = 'targets: {a: {kind: command, run: "cp a {outputs.x}", outputs: {x: x}}}\n'


def connection(folder: Path, fields: str) -> Connection:
    recipe = Recipe(folder / "olivebuild.yaml", f"executors:\n  x: {{{fields}}}\n{TARGET}")
    machine = recipe.executors["x"]
    assert isinstance(machine, declared.Site)
    return connect(recipe, "x", machine, lambda _: {})


def test_a_host_is_reached_by_ssh(tmp_path: Path) -> None:
    fields = "kind: ssh, host: me@box, port: 2200, ssh_config: conf, variables: {A: 1, B: true}"
    assert connection(tmp_path, fields) == SshConnection(
        "x", "me@box", 2200, str(tmp_path / "conf"), "python3", {"A": "1", "B": "true"}
    )
    assert connection(tmp_path, "kind: slurm, host: login, python: ~/e/bin/python") == (
        SshConnection("x", "login", python="~/e/bin/python")
    )


def test_a_program_may_lead_there(tmp_path: Path) -> None:
    fields = "kind: ray, command: [kubectl, exec, -i, head, --], python: python"
    words = ["kubectl", "exec", "-i", "head", "--"]
    assert connection(tmp_path, fields) == WordsConnection("x (ray)", words, "python")


@pytest.mark.parametrize("kind", ["slurm", "ray", "docker", "azureml"])
def test_without_either_the_agent_is_a_process_here(tmp_path: Path, kind: str) -> None:
    local = connection(tmp_path, f"kind: {kind}, variables: {{A: b}}")
    assert isinstance(local, LocalConnection)
    assert local.label == f"x ({kind})"
    assert local.variables == {"A": "b"}
    assert local.argv([])[0] == sys.executable


def test_another_python_of_this_machine_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").touch()
    fields = "kind: python, path: env/bin, prepend_to_path: [tools], variables: {PATH: /p}"
    local = connection(tmp_path, fields)
    assert local.argv([])[0] == str(tmp_path / "env/bin/python")
    assert local.variables == {"PATH": f"{tmp_path / 'tools'}{os.pathsep}/p"}


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ("kind: python, path: none", "executors.x.path: there is no python in"),
        ("kind: python, requirements: none.txt", "executors.x.requirements: "),
        ("kind: ssh, host: a, conda: none.yaml", "executors.x.conda: "),
    ],
)
def test_a_path_that_is_none_is_an_error_with_its_place(
    tmp_path: Path, fields: str, fact: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        connection(tmp_path, fields)
    assert caught.value.fact.startswith(fact)
    assert caught.value.where is not None
    assert caught.value.where.line == 2
