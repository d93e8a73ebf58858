"""Systems: kinds and aliases, hosts of passes, and what accelerators are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.recipe.importers.olive.ledger import Fate
from olivebuild.recipe.validate import check
from tests.recipe.importers.olive.examples import fates, flat, imported, nested, texts

CPU = [{"device": "cpu"}]


@pytest.mark.parametrize(
    ("system", "kind"),
    [
        ({"type": "AzureML", "aml_compute": "c"}, "azureml"),
        ({"type": "azureml"}, "azureml"),
        ({"type": "azure_arc"}, "azureml"),
        ({"type": "AzureND12SSystem"}, "azureml"),
        ({"type": "Docker", "config": {"local_docker_config": {"image_name": "i"}}}, "docker"),
        ({"type": "PythonEnvironment", "prepend_to_path": ["x"]}, "python"),
        ({"type": "IsolatedORT", "python_environment_path": "p"}, "python"),
        ({"type": "LocalSystem"}, ""),
        ({"type": "SurfaceProSystem1796"}, ""),
    ],
)
def test_types_are_kinds_of_executors(tmp_path: Path, system: dict[str, Any], kind: str) -> None:
    done = imported(tmp_path, flat(systems={"s": system}, target="s", host="s"))
    assert not done.faults, texts(done, Fate.REFUSED)
    recipe = check(done.recipe, "r.yaml")
    assert getattr(recipe.executors.get("s"), "kind", "") == kind
    assert recipe.targets["onnx"].executor == ("s" if kind else "")


def test_an_alias_is_a_machine_with_a_gpu(tmp_path: Path) -> None:
    done = imported(tmp_path, flat(systems={"s": {"type": "AzureNDV2System"}}, target="s"))
    assert "provider: cuda" in done.recipe


def test_a_pass_may_have_a_host_of_its_own(tmp_path: Path) -> None:
    value = nested()
    value["systems"]["box"] = {"type": "Docker", "config": {"image_name": "i:1"}}
    value["passes"]["tune"]["host"] = "box"
    value["passes"]["merge"]["host"] = None
    done = imported(tmp_path, value)
    assert not done.faults
    targets = check(done.recipe, "r.yaml").targets
    assert (targets["tune"].executor, targets["merge"].executor) == ("box", "cloud")
    assert fates(done)["passes.tune.host"].field == "executors.box"


@pytest.mark.parametrize(("host", "executor"), [(None, "cloud"), ("here", "cloud"), ("box", "box")])
def test_the_host_of_the_whole_workflow_runs_what_no_other_does(
    tmp_path: Path, host: str | None, executor: str
) -> None:
    systems = {
        "here": {"type": "LocalSystem", "accelerators": CPU},
        "cloud": {"type": "AzureML", "aml_compute": "c"},
        "box": {"type": "Docker", "image_name": "i:1"},
    }
    done = imported(tmp_path, flat(systems=systems, host=host, workflow_host="cloud"))
    assert not done.faults, texts(done, Fate.REFUSED)
    assert check(done.recipe, "r.yaml").targets["onnx"].executor == executor


def test_a_system_may_be_described_where_it_is_named(tmp_path: Path) -> None:
    inline = {"type": "LocalSystem", "config": {"accelerators": ["gpu"]}}
    done = imported(tmp_path, nested(engine={"target": inline, "host": inline}))
    assert not done.faults
    by_path = fates(done)
    assert by_path["engine.target.config.accelerators[0]"].field == "onnx.provider"
    assert by_path["engine.host.config.accelerators[0]"].fate is Fate.NO_EFFECT
    assert "provider: cuda" in done.recipe


def test_the_engines_providers_count_for_the_target(tmp_path: Path) -> None:
    engine = {"execution_providers": ["DmlExecutionProvider"], "target": "cloud"}
    value = nested(engine=engine)
    value["systems"]["cloud"]["config"]["accelerators"] = ["gpu"]
    done = imported(tmp_path, value)
    assert not done.faults, texts(done, Fate.REFUSED)
    assert "provider: dml  # engine.execution_providers[0]" in done.recipe
    assert fates(done)["engine.execution_providers[0]"].field == "onnx.provider"


def test_without_a_target_the_engines_providers_count_alone(tmp_path: Path) -> None:
    done = imported(
        tmp_path, nested(engine={"execution_providers": ["CUDAExecutionProvider"]}, systems={})
    )
    assert fates(done)["engine.execution_providers[0]"].field == "onnx.provider"
    assert fates(done)["systems"].text == "it is empty"


def test_accelerators_of_a_system_that_is_no_target_decide_nothing(tmp_path: Path) -> None:
    systems = {
        "here": {"type": "LocalSystem", "accelerators": CPU},
        "npu": {
            "type": "LocalSystem",
            "accelerators": [{"execution_providers": ["QNNExecutionProvider"]}],
        },
    }
    done = imported(tmp_path, flat(systems=systems, host="npu"))
    assert not done.faults
    entry = fates(done)["systems.npu.accelerators[0].execution_providers[0]"]
    assert (entry.fate, "`target`" in entry.text) == (Fate.NO_EFFECT, True)


def test_systems_whose_names_are_one_word_are_two_executors(tmp_path: Path) -> None:
    cloud = {"type": "AzureML", "aml_compute": "c"}
    done = imported(tmp_path, flat(systems={"A b": cloud, "a-b": cloud}, target="a-b", host="A b"))
    assert not done.faults
    assert done.executors == ("a-b", "a-b-2")
    assert check(done.recipe, "r.yaml").targets["onnx"].executor == "a-b"


def test_a_client_without_a_system_is_without_effect(tmp_path: Path) -> None:
    done = imported(tmp_path, flat(azureml_client={"subscription_id": "s", "read_timeout": 1}))
    assert fates(done)["azureml_client.subscription_id"].text == "nothing here uses a workspace"
    broken = imported(tmp_path, flat(azureml_client={"subscription": "s"}))
    assert broken.error().hint == "did you mean subscription_id?"


def test_items_of_a_system_may_be_left_open(tmp_path: Path) -> None:
    system = {
        "type": "PythonEnvironment",
        "python_environment_path": "<bin>",
        "prepend_to_path": ["<libraries>", "/opt/tools"],
        "environment_variables": {"TOKEN_FILE": "<file>"},
    }
    done = imported(tmp_path, flat(systems={"s": system}, target="s", host="s"))
    assert not done.faults, texts(done, Fate.REFUSED)
    assert check(done.recipe, "r.yaml").targets["onnx"].executor == "s"


def test_a_provider_that_does_not_exist_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    slip = {"type": "LocalSystem", "accelerators": [{"execution_providers": ["CUDAExecProvider"]}]}
    done = imported(tmp_path, flat(systems=flat()["systems"] | {"spare": slip}))
    assert "no execution provider" in texts(done, Fate.REFUSED)[0]
    # One that there is, but not here, is no fault of a machine for which nothing is built.
    slip["accelerators"] = [{"execution_providers": ["QNNExecutionProvider"]}]
    done = imported(tmp_path, flat(systems=flat()["systems"] | {"spare": slip}))
    assert not done.faults


def test_an_accelerator_that_is_left_open_stays_a_placeholder(tmp_path: Path) -> None:
    accelerators = [{"device": "<device>", "execution_providers": ["<ep>"]}]
    here = {"type": "LocalSystem", "accelerators": accelerators}
    done = imported(tmp_path, flat(systems={"here": here}, target="<system>"))
    assert not done.faults
    assert 'provider: "<placeholder: ep>"' in done.recipe
    assert [e.path[0] for e in done.placeholders] == ["systems", "systems", "target"]
    assert check(done.recipe, "r.yaml").targets["onnx"].placeholders


@pytest.mark.parametrize(
    ("fields", "dockerfile"),
    [
        ({"build_context_path": "docker", "dockerfile": "Dockerfile"}, "docker/Dockerfile"),
        (
            {"build_context_path": "/docker", "dockerfile": "cpu/Dockerfile"},
            "/docker/cpu/Dockerfile",
        ),
        ({"build_context_path": "docker", "dockerfile": "/Dockerfile"}, "/Dockerfile"),
        ({"dockerfile": "docker/Dockerfile"}, "docker/Dockerfile"),
    ],
)
def test_a_dockerfile_is_named_in_its_context(
    tmp_path: Path, fields: dict[str, str], dockerfile: str
) -> None:
    system = {"type": "Docker", "config": {"local_docker_config": fields}}
    done = imported(tmp_path, flat(systems={"s": system}, target="s", host="s"))
    assert not done.faults, texts(done, Fate.REFUSED)
    executor = check(done.recipe, "r.yaml").executors["s"]
    assert getattr(executor, "dockerfile", None) == dockerfile
