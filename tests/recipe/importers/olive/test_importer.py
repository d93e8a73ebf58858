"""The import as a whole: what the top level, the engine and the systems become, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.importers.olive.importer import import_workflow
from olivebuild.recipe.importers.olive.ledger import Fate
from olivebuild.recipe.validate import check
from tests.recipe.importers.olive.examples import fates, flat, imported, nested, texts


def test_a_workflow_becomes_a_recipe_that_says_where_each_line_comes_from(tmp_path: Path) -> None:
    done = imported(tmp_path, nested())
    assert not done.faults
    assert done.default == ("onnx",)
    recipe = check(done.recipe, "r.yaml")
    assert list(recipe.targets) == ["base", "letters", "tune", "merge", "onnx"]
    assert {name: target.executor for name, target in recipe.targets.items()} == {
        "base": "",
        "letters": "cloud",
        "tune": "cloud",
        "merge": "cloud",
        "onnx": "cloud",
    }
    lines = done.recipe.splitlines()
    text = (tmp_path / "olive-config.json").read_text().splitlines()
    number = next(i for i, line in enumerate(text, 1) if '"lora_r": 4' in line)
    assert f"    r: 4  # passes.tune.config.lora_r, line {number}" in lines
    assert {n: machine.kind for n, machine in recipe.executors.items()} == {"cloud": "azureml"}
    assert fates(done)["engine.cache_dir"].fate is Fate.NO_EFFECT


def test_systems_and_the_client_are_kept_for_executors(tmp_path: Path) -> None:
    client = {
        "subscription_id": "Your Azure subscription",
        "workspace_name": "w",
        "read_timeout": 9,
    }
    done = imported(tmp_path, nested(azureml_client=client))
    by_path = fates(done)
    assert by_path["azureml_client.workspace_name"].field == "executors.cloud.workspace"
    assert by_path["azureml_client.read_timeout"].fate is Fate.NO_EFFECT
    conda = by_path["systems.cloud.config.aml_docker_config.conda_file_path"]
    assert (conda.fate, conda.field) == (Fate.MEANT_ELSE, "executors.cloud.conda")
    assert [e.value.text for e in done.placeholders if hasattr(e.value, "text")] == [
        "compute",
        "Your Azure subscription",
    ]
    assert 'subscription: "<placeholder: Your Azure subscription>"' in done.recipe


def test_a_conda_file_is_part_of_the_import(tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text(
        "name: x\ndependencies:\n  - python=3.8\n  - pip: [peft]\n"
    )
    done = imported(tmp_path, nested())
    (environment,) = done.environments
    assert (environment.source, environment.name) == ("conda.yaml", "environment.yaml")
    assert "conda: environment.yaml" in done.recipe
    assert {line.text for line in environment.conda.lines} == {"x", "python=3.8", "peft"}
    assert fates(done)["systems.cloud.config.aml_docker_config.conda_file_path"].fate is Fate.MAPPED


def test_each_provider_of_the_target_is_built_for(tmp_path: Path) -> None:
    accelerators = [
        {"execution_providers": ["CPUExecutionProvider", "CUDAExecutionProvider"], "device": "gpu"}
    ]
    done = imported(
        tmp_path, flat(systems={"here": {"type": "LocalSystem", "accelerators": accelerators}})
    )
    recipe = check(done.recipe, "r.yaml")
    providers = [
        getattr(t.fields, "provider", "") for t in recipe.targets.values() if t.kind == "onnx"
    ]
    assert providers == ["cpu", "cuda"]
    assert done.default == ("onnx", "onnx-2")
    field = fates(done)["systems.here.accelerators[0].execution_providers[1]"].field
    assert field == "onnx.provider, onnx-2.provider"


def test_a_flow_without_a_model_for_one_provider_is_built_for_the_others(tmp_path: Path) -> None:
    accelerators: list[dict[str, object]] = [
        {"execution_providers": ["CPUExecutionProvider", "CUDAExecutionProvider"], "device": "gpu"}
    ]
    value = flat(systems={"here": {"type": "LocalSystem", "accelerators": accelerators}})
    value["passes"]["onnx"]["precision"] = "fp16"
    done = imported(tmp_path, value)
    assert not done.faults
    assert done.default == ("onnx",)
    assert "provider: cuda" in done.recipe
    cpu = fates(done)["systems.here.accelerators[0].execution_providers[0]"]
    assert (cpu.fate, "without a model for it" in cpu.text) == (Fate.MEANT_ELSE, True)
    accelerators[:] = [{"execution_providers": ["CPUExecutionProvider"], "device": "cpu"}]
    assert imported(tmp_path, value).faults


def test_flows_share_what_they_have_in_common(tmp_path: Path) -> None:
    value = nested(pass_flows=[["tune", "merge", "onnx"], ["tune"], ["onnx"]])
    done = imported(tmp_path, value)
    assert not done.faults
    assert done.default == ("onnx", "tune", "onnx-2")
    assert done.recipe.count("kind: adapter") == 1
    assert fates(done)["pass_flows[0][1]"].field == "onnx"


def test_builds_are_flows_with_systems_of_their_own(tmp_path: Path) -> None:
    systems = {
        "here": {"type": "LocalSystem", "accelerators": [{"device": "cpu"}]},
        "box": {"type": "Docker", "image_name": "i:1", "build_args": {"A": "1"}},
    }
    builds = {
        "_default": {"host": "box", "output_dir": "o"},
        "small": {"pipeline": ["onnx"]},
        "other": {"pipeline": ["onnx"], "host": None},
    }
    done = imported(tmp_path, flat(systems=systems, builds=builds))
    assert not done.faults, texts(done, Fate.REFUSED)
    assert done.generation.name == "main"
    assert check(done.recipe, "r.yaml").targets["onnx"].executor == "box"
    assert fates(done)["builds._default.output_dir"].fate is Fate.NO_EFFECT


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"inputmodel": 1}, "inputmodel: unknown field 'inputmodel'"),
        ({"target": "there"}, "target: there is no system 'there'"),
        ({"target": 3}, "target: there is no system 3"),
        ({"engine": {"target": "here"}}, "target: target stands in `engine`, too"),
        ({"engine": [1]}, "engine[0]: engine is a list where a mapping must stand"),
        ({"engine": {"hosst": "here"}}, "engine.hosst: unknown field 'hosst'"),
        ({"systems": {"here": {"type": "Cloud"}}}, "systems.here.type: there is no type of system"),
        ({"systems": {"here": None}}, "systems.here: the system here is null"),
        (
            {"systems": {"here": {"type": "LocalSystem", "acelerators": []}}},
            "systems.here.acelerators: unknown field",
        ),
        (
            {
                "systems": {
                    "here": {
                        "type": "LocalSystem",
                        "accelerators": [{"execution_providers": ["QNNExecutionProvider"]}],
                    }
                }
            },
            "systems.here.accelerators[0].execution_providers[0]: Qualcomm's QNN",
        ),
        ({"pass_flows": [["bild"]]}, "pass_flows[0][0]: there is no pass 'bild'"),
        ({"pass_flows": [["<flow>"]]}, "pass_flows[0][0]: which passes run is left open"),
        ({"passes": {"a": {"precision": "int4"}}}, "passes.a.precision: a pass without a type"),
        ({"passes": {"a": 1}}, "passes.a: the pass a is no mapping"),
        ({"passes": {"a": []}}, "passes.a: the pass a has nothing in it"),
        ({"evaluator": "e"}, "evaluator: there is no evaluator 'e'"),
        ({"search_strategy": "yes"}, "search_strategy: search_strategy is text"),
        ({"search_strategy": {"sampl": 1}}, "search_strategy.sampl: unknown field 'sampl'"),
        ({"packaging_config": {"type": "Tarball"}}, "packaging_config.type: no kind of packaging"),
        (
            {"passes": {}, "auto_optimizer_config": {"precisions": ["int4"]}},
            "auto_optimizer_config.precisions[0]: Olive chooses the passes by itself there",
        ),
        ({"builds": {"a": {"pipeline": ["x"]}}}, "builds.a.pipeline[0]: there is no pass 'x'"),
    ],
)
def test_a_fault_is_refused_with_its_path_line_and_hint(
    tmp_path: Path, more: dict[str, object], fault: str
) -> None:
    done = imported(tmp_path, flat(**more))
    error = done.error()
    assert fault in "\n".join(f"{t}" for t in texts(done, Fate.REFUSED))
    assert error.exit_code == 2
    assert error.where is not None
    assert error.where.line > 1
    assert error.hint


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("[1]", "no workflow of Olive"),
        ("{}", "no workflow of Olive"),
        ('{"name": "x", "dependencies": {}}', "neither `input_model` nor `passes`"),
    ],
)
def test_json_that_is_no_workflow_is_an_error(tmp_path: Path, text: str, fact: str) -> None:
    file = tmp_path / "package.json"
    file.write_text(text)
    with pytest.raises(RecipeError, match=fact):
        import_workflow(file, out=tmp_path, shown=file.name)


def test_passes_without_a_workflow_are_refused_as_such(tmp_path: Path) -> None:
    done = imported(tmp_path, {"tune": {"type": "LoRA", "config": {"lora_r": 8}}})
    assert [entry.text for entry in done.faults] == ["passes without a workflow"] * 2


def test_secrets_of_a_system_are_copied_nowhere(tmp_path: Path) -> None:
    system = {
        "type": "PythonEnvironment",
        "python_environment_path": "env/bin",
        "environment_variables": {"HF_TOKEN": "hf_abc", "LANG": "C"},
    }
    done = imported(tmp_path, flat(systems={"here": system}))
    assert "hf_abc" not in done.recipe
    assert "LANG: C" in done.recipe
    entry = fates(done)["systems.here.environment_variables.HF_TOKEN"]
    assert (entry.fate, entry.fatal) == (Fate.REFUSED, False)


def test_paths_are_those_of_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "olive-config.json"
    (tmp_path / "sub" / "models" / "small").mkdir(parents=True)
    imported(tmp_path / "sub", nested())
    done = import_workflow(file, out=tmp_path, shown="sub/olive-config.json")
    assert "source: sub/letters.json" in done.recipe
    assert "source: sub/models/small" in done.recipe
