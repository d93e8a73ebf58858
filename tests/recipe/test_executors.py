"""Executors: words of recipes that say where targets are to be made, and change no key."""

from __future__ import annotations

import json

import jsonschema
import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.recipe import document
from olivebuild.recipe.schema import recipe_schema
from olivebuild.recipe.validate import Checked, check
from tests.conftest import Place

TARGET = 'a: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}'
EXECUTORS = """\
executors:
  here: {kind: local}
  aml:
    kind: azureml
    subscription: "<placeholder: Your Azure subscription>"
    workspace: w
    compute: gpus
    hf_token: true
    environment: e
    environment_version: 3
    properties: {shm_size: 2g}
    tags: {team: x}
  box: {kind: docker, image: "i:1", build_args: {A: 1}, run_args: {network: none}}
  other: {kind: python, path: env/bin, variables: {A: b}, prepend_to_path: [x]}
  gpu: {kind: ssh, host: me@gpu-box.local, port: 2222, python: ~/env/bin/python, environment: lock}
  cluster: {kind: slurm, host: login, partition: gpu, options: {exclude: node7, nice: 10}}
  pods: {kind: ray, command: [kubectl, exec, -i, head, --], address: "http://127.0.0.1:8265"}
"""


def recipe(target: str, executors: str = EXECUTORS) -> str:
    return f"{executors}targets:\n  {target}\n"


def of_ssh(fields: str) -> str:
    return recipe(f"{TARGET}}}", f"executors: {{x: {{kind: ssh, {fields}}}}}\n")


def checked(target: str, executors: str = EXECUTORS) -> Checked:
    return check(recipe(target, executors), "r.yaml")


def test_targets_name_executors() -> None:
    read = checked(f"{TARGET}, executor: aml}}")
    assert {name: machine.kind for name, machine in read.executors.items()} == {
        "here": "local",
        "aml": "azureml",
        "box": "docker",
        "other": "python",
        "gpu": "ssh",
        "cluster": "slurm",
        "pods": "ray",
    }
    assert read.targets["a"].executor == "aml"
    text = document.parse(recipe(f"{TARGET}, executor: aml}}"), "r.yaml").value
    jsonschema.validate(text, recipe_schema())


def test_what_a_target_takes_of_a_site_is_read() -> None:
    adapter = "b: {kind: adapter, model: m, data: d, resources: {nodes: 2, gpu: 4, time: 2h}}"
    read = checked(f"{TARGET}, resources: {{time: 90, memory: 8GB, cores: 2}}}}\n  {adapter}")
    assert read.targets["a"].resources == {"time": 90.0, "memory": 8e9, "cores": 2.0}
    assert read.targets["b"].resources == {"nodes": 2.0, "gpu": 4.0, "time": 7200.0}


@pytest.mark.parametrize(
    "host", ["gpu-box", "me@10.0.0.7", "a.b.example", "::1", "fe80::1%eth0", "user.name@box_1"]
)
def test_hosts_are_what_ssh_takes(host: str) -> None:
    assert check(of_ssh(f"host: '{host}'"), "r.yaml").executors["x"].kind == "ssh"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (recipe(f"{TARGET}, executor: amll}}"), "unknown executor 'amll' in a"),
        (recipe(f"{TARGET}, executor: [aml]}}"), "unknown executor"),
        (recipe(f"{TARGET}, executor: aml}}", ""), "unknown executor 'aml'"),
        (recipe(f"{TARGET}}}", "executors: [aml]\n"), "maps names to machines"),
        (recipe(f"{TARGET}}}", "executors: {x: {image: y}}\n"), "the executor x has no kind"),
        (recipe(f"{TARGET}}}", "executors: {x: 1}\n"), "the executor x has no kind"),
        (recipe(f"{TARGET}}}", "executors: {x: {kind: sge}}\n"), "unknown kind of executor"),
        (recipe(f"{TARGET}}}", "executors: {x: {kind: ssh}}\n"), "executor x: there is no host"),
        (of_ssh("host: -oProxyCommand=x"), "'-oProxyCommand=x' is no host"),
        (of_ssh("host: 'a b'"), "'a b' is no host"),
        (of_ssh("host: a, port: 0"), "x.port"),
        (of_ssh("host: a, command: [b]"), "`host` and `command` are two ways"),
        (of_ssh("command: [b], port: 22"), "`port` is of no use without `host`"),
        (of_ssh("host: a, python: -c"), "'-c' can't be handed on"),
        (of_ssh("host: a, environment: lock, conda: x.yaml"), "one of `environment`, `conda`"),
        (of_ssh("host: a, variables: {A-B: c}"), "'A-B' is no name of a variable"),
        (
            recipe(f"{TARGET}}}", "executors: {x: {kind: slurm, options: {--wrap: x}}}\n"),
            "'--wrap' is no option",
        ),
        (
            recipe(f"{TARGET}}}", "executors: {x: {kind: slurm, options: {qos: x}}}\n"),
            "`qos` has a field of its own",
        ),
        (recipe(f"{TARGET}, resources: {{time: 2x}}}}"), "resources.time: '2x' is no span of time"),
        (recipe(f"{TARGET}, resources: {{nodes: 2}}}}"), "is made on one machine"),
        (recipe(f"{TARGET}}}", "executors: {x: {kind: local, image: y}}\n"), "unknown key 'image'"),
        (recipe(f"{TARGET}}}", "executors: {x: {kind: docker, image: 1}}\n"), "image"),
        (recipe("a: {kind: command, run: x, matrix: {executor: [x]}}"), "can't be an axis"),
    ],
)
def test_faults_have_a_place(text: str, fact: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check(text, "r.yaml")
    assert fact in caught.value.fact
    assert caught.value.where is not None
    assert caught.value.where.line
    assert caught.value.exit_code == 2


def test_where_a_target_runs_is_no_part_of_its_key(place: Place) -> None:
    (place.folder / "in.txt").write_text("one")
    place.recipe.write_text(recipe(f"{TARGET}}}", ""))
    (plain,) = json.loads(place.run("plan", "--json").out)["targets"]
    place.recipe.write_text(recipe(f"{TARGET}, executor: aml}}"))
    answer = json.loads(place.run("plan", "--json").out)
    assert answer["executors"] == ["a runs on aml (azureml)"]
    assert answer["targets"][0]["key"] == plain["key"]
    assert "a runs on aml (azureml)" in place.run("plan").out
    assert "runs on" not in place.run("plan", "--executor", "local").out
    unknown = place.run("plan", "--executor", "aml:x")
    assert (unknown.code, "there is no executor 'aml'" in unknown.err) == (2, True)
    stopped = place.run("build")
    assert stopped.code == 2
    assert "executors.aml.subscription is a placeholder (Your Azure subscription)" in stopped.err
    assert "olivebuild.yaml:5:" in stopped.err
    done = place.run("build", "--executor", "local")
    assert done.code == 0, done.err
    # What is fresh needs no machine.
    again = place.run("build")
    assert (again.code, again.out) == (0, "nothing to do: a is fresh\n"), again.err
    place.recipe.write_text(recipe(f"{TARGET}, executor: here}}"))
    assert "executor" not in place.run("plan").out
