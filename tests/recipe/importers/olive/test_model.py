"""Input models of all generations, and the adapters that come with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.olive_workflows import mapped


def source(model: dict[str, Any], **options: Any) -> object:
    return mapped({"input_model": model, **options.pop("around", {})}, **options).targets["base"][
        "source"
    ]


def old(**config: Any) -> dict[str, Any]:
    return {"type": "PyTorchModel", "config": config}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (old(hf_config={"model_name": "acme/tiny", "task": "text-generation"}), "hf:acme/tiny"),
        (old(hf_config={"model_name": "models/acme/tiny"}), "models/acme/tiny"),
        (old(model_path="../weights", hf_config={"model_name": "acme/tiny"}), "../weights"),
        ({"type": "HfModel", "model_path": "acme/tiny"}, "hf:acme/tiny"),
        ({"type": "hfmodel", "config": {"model_path": "acme/tiny"}}, "hf:acme/tiny"),
        (
            {"type": "HfModel", "model_path": "acme/tiny", "load_kwargs": {"revision": "v2"}},
            "hf:acme/tiny@v2",
        ),
        (
            {
                "type": "HfModel",
                "model_path": "azureml://registries/house/models/tiny/versions/3",
            },
            "azureml://registries/house/models/tiny/versions/3",
        ),
        (
            old(
                model_path={
                    "type": "azureml_registry_model",
                    "config": {"registry_name": "house", "name": "tiny", "version": 3},
                },
                model_file_format="PyTorch.MLflow",
            ),
            "azureml://registries/house/models/tiny/versions/3",
        ),
        (old(model_path={"type": "folder", "config": {"path": "weights"}}), "weights"),
        (old(model_path={"type": "string_name", "config": {"name": "acme/tiny"}}), "hf:acme/tiny"),
        ({"type": "HfModel", "model_path": "tiny.gguf"}, "gguf:tiny.gguf"),
    ],
)
def test_a_model_becomes_a_source(model: dict[str, Any], expected: str) -> None:
    result = mapped({"input_model": model})
    assert result.targets["base"]["source"] == expected
    assert not result.refused


def test_a_folder_beside_the_file_is_no_id_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "acme" / "tiny").mkdir(parents=True)
    model = {"type": "HfModel", "model_path": "acme/tiny"}
    assert source(model, folder=tmp_path) == "acme/tiny"


def test_a_model_of_a_workspace_takes_the_files_client() -> None:
    path = {"type": "azureml_model", "config": {"name": "tiny", "version": "4"}}
    client = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
    expected = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/models/tiny/versions/4"
    assert source(old(model_path=path), around={"azureml_client": client}) == expected
    open_client = client | {"resource_group": "<group>"}
    text = str(source(old(model_path=path), around={"azureml_client": open_client}))
    assert text.startswith("<placeholder: azureml://subscriptions/s/resourcegroups/group/")


def test_a_file_without_a_model_leaves_it_open() -> None:
    base = mapped({"passes": {}}).targets["base"]
    assert base == {"kind": "model", "source": "<placeholder: the model>"}


def test_an_adapter_comes_along() -> None:
    result = mapped(
        {"input_model": {"type": "HfModel", "model_path": "acme/tiny", "adapter_path": "./lora"}}
    )
    assert result.targets["input-adapter"]["source"] == "./lora"
    assert result.state.adapter == "input-adapter"


def test_trust_is_never_granted_and_scripts_are_not_run() -> None:
    hf_config = {"model_name": "acme/tiny", "from_pretrained_args": {"trust_remote_code": True}}
    result = mapped(
        {"input_model": old(model_script="evil.py", io_config="names", hf_config=hf_config)},
        "0.6.2",
    )
    assert "trust_remote_code" not in json.dumps(result.targets)
    assert not result.refused
    loader = old(model_loader="load", model_script="evil.py", hf_config={"model_name": "a/b"})
    assert list(mapped({"input_model": loader}).refused) == ["input_model.config.model_loader"]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ({"type": "ONNXModel", "model_path": "m.onnx"}, "input_model.type"),
        ({"type": "HfModle", "model_path": "a/b"}, "input_model.type"),
        ({"type": "HfModel", "model_path": 3}, "input_model.model_path"),
        ({"type": "HfModel", "model_pth": "a/b", "model_path": "a/b"}, "input_model.model_pth"),
        (
            {"type": "HfModel", "task": "text-classification", "model_path": "a/b"},
            "input_model.task",
        ),
        (
            {
                "type": "HfModel",
                "model_path": "a/b",
                "load_kwargs": {"quantization_method": "bitsandbytes"},
            },
            "input_model.load_kwargs.quantization_method",
        ),
        (
            old(model_path={"type": "azureml_modle", "config": {}}),
            "input_model.config.model_path.type",
        ),
        (
            old(
                model_path={
                    "type": "azureml_registry_model",
                    "config": {"name": "tiny", "version": 1},
                }
            ),
            "input_model.config.model_path.config",
        ),
        (old(hf_config={"model_name": "a/b", "model_class": "BertModel"}), "model_class"),
    ],
)
def test_what_is_no_causal_model_is_refused(model: dict[str, Any], path: str) -> None:
    refused = mapped({"input_model": model}).refused
    assert refused
    assert any(name.startswith(path) or name.endswith(path) for name in refused)


def test_the_task_is_ignored_by_the_builder() -> None:
    model = {"type": "HfModel", "model_path": "a/b", "task": "text-classification"}
    passes = {"b": {"type": "ModelBuilder", "precision": "int4"}}
    result = mapped({"input_model": model, "passes": passes})
    assert list(result.meant_else) == ["input_model.task"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [("sliding_window", "write it into that file"), ("trust_remote_cod", "did you mean")],
)
def test_what_would_change_the_models_configuration_is_refused(key: str, hint: str) -> None:
    model = {"type": "HfModel", "model_path": "acme/tiny", "load_kwargs": {key: False}}
    result = mapped({"input_model": model}, "0.9.0")
    path = f"input_model.load_kwargs.{key}"
    assert list(result.refused) == [path]
    assert result.entries[path].hint.startswith(hint)
