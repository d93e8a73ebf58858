"""Models of Azure ML, from a server that speaks its API: pinned, fetched once, and their faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Place, rows, write_rows
from tests.support.azureml_server import (
    ACCOUNT,
    CONTAINER,
    GROUP,
    SAS,
    SECRETS,
    SUBSCRIPTION,
    Answer,
    Azure,
    always,
    clean_environment,
    error,
    files_of,
    serving,
    xml_error,
)
from tests.support.mlflow_folders import LAYOUTS, write_mlmodel

pytestmark = pytest.mark.scenario
PHI = "azureml://registries/shelf/models/phi"
IN_WORK = (
    f"azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}/workspaces/work/models/phi"
)
RECIPE = 'targets:\n  base: {{kind: model, source: "{source}"}}\n'


@pytest.fixture
def azure(tmp_path: Path, tiny_model: Path) -> Iterator[Azure]:
    """A registry with the tiny model, in the layout of Azure's catalogue."""
    with serving(tmp_path / "container") as azure:
        azure.add("phi", "3", files_of(LAYOUTS["hftransformersv2"](tiny_model, tmp_path / "a")))
        azure.datastores["store"] = {
            "datastoreType": "AzureBlob",
            "accountName": ACCOUNT,
            "containerName": CONTAINER,
            "endpoint": azure.url.removeprefix("http://"),
            "protocol": "http",
            "credentials": {"credentialsType": "Sas"},
        }
        azure.secrets["store"] = {"secretsType": "Sas", "sasToken": SAS}
        yield azure


def signed_in(place: Place, azure: Azure) -> None:
    place.environment |= azure.environment | {
        name: ""
        for name in ("AZURE_CLIENT_ID", "AZURE_STORAGE_KEY", "AZURE_STORAGE_CONNECTION_STRING")
        if name not in clean_environment()
    }


def pins(place: Place) -> dict[str, str]:
    return dict(json.loads((place.folder / "olivebuild.lock").read_text())["sources"])


def check_no_secret(place: Place, *texts: str) -> None:
    """Assert that no token, key or signature is in what was written or told."""
    files = [p for f in (place.folder, place.cache) for p in f.rglob("*") if p.is_file()]
    assert len(files) > 5
    for secret in SECRETS:
        assert not any(secret in text for text in texts)
        assert [p for p in files if secret.encode() in p.read_bytes()] == []


@pytest.mark.parametrize("source", [f"{PHI}/versions/3", f"{IN_WORK}@latest"])
def test_results_of_an_equal_folder_are_taken(copied: Place, azure: Azure, source: str) -> None:
    signed_in(copied, azure)
    copied.edit("source: tiny", f'source: "{source}"')
    shutil.rmtree(copied.folder / "tiny")
    done = copied.build()
    assert done.code == 0, done.err
    # The content is the one the adapter was made from, so nothing below runs.
    assert done.ran == ["base"]
    name = source.replace("@latest", "/versions/3")
    (pin,) = pins(copied).values()
    assert pin.startswith(f"{name}, ")
    assert " files, " in pin
    check_no_secret(copied, done.out, done.err)
    # What the weights were saved with beside the configuration is none of the model's files.
    assert not azure.requests("data/model/config.json")
    azure.asked.clear()
    assert copied.build().ran == []
    assert azure.asked == []


def test_a_label_stays_until_it_is_asked_anew(
    place: Place, azure: Azure, tiny_model: Path, tmp_path: Path
) -> None:
    signed_in(place, azure)
    place.recipe.write_text(RECIPE.format(source=f"{PHI}@latest"))
    assert place.build().ran == ["base"]
    newer = shutil.copytree(tiny_model, tmp_path / "newer")
    template = newer / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    # The newer version is a plain folder.
    azure.add("phi", "4", files_of(newer), "custom_model")
    assert place.build().ran == []
    shutil.rmtree(place.cache / "downloads")
    assert place.build().ran == ["base"]
    assert pins(place)[f"{PHI}@latest"].startswith(f"{PHI}/versions/3, ")
    done = place.run("update", "base")
    assert done.code == 0, done.err
    assert pins(place)[f"{PHI}@latest"].startswith(f"{PHI}/versions/4, ")
    assert place.build().ran == ["base"]
    check_no_secret(place, done.out, done.err)


def refused(place: Place, azure: Azure, source: str = f"{PHI}/versions/3") -> str:
    """Return the one error of a build of a model."""
    signed_in(place, azure)
    place.recipe.write_text(RECIPE.format(source=source))
    done = place.build()
    assert done.code == 1
    assert done.err.count("error: ") == 1
    assert "olivebuild.yaml:2:" in done.err
    assert "Traceback" not in done.err
    assert not any(secret in done.err + done.out for secret in SECRETS)
    assert not (place.folder / "build").exists()
    return done.err


@pytest.mark.parametrize(
    ("part", "answer", "text"),
    [
        ("/discovery", error(403, "Forbidden", "Not you."), "no permission for the registry"),
        ("/versions/3", error(404, "UserError", "Gone."), "version '3' of the model 'phi'"),
        ("/datarefs", error(429, "Slow", "", **{"Retry-After": "600"}), "in 600 seconds"),
        ("/datarefs", (200, {}, b"{"), "it is no JSON object"),
        (f"/{CONTAINER}", xml_error(403, "AuthenticationFailed"), "access is denied"),
        ("/identity", (400, {}, b"no"), "no sign-in for Azure"),
    ],
)
def test_what_azure_refuses_is_one_error(
    place: Place, azure: Azure, part: str, answer: Answer, text: str
) -> None:
    azure.fault = always(part, answer)
    assert text in refused(place, azure)


def test_a_model_that_is_no_transformers_model(place: Place, azure: Azure, tmp_path: Path) -> None:
    write_mlmodel(tmp_path / "other", {"python_function": {"loader_module": "evil"}})
    azure.add("other", "1", files_of(tmp_path / "other"))
    text = refused(place, azure, "azureml://registries/shelf/models/other/versions/1")
    assert "its flavours are python_function (loaded by evil)" in text
    azure.add("other", "2", {"model.onnx": b"x"}, "custom_model")
    text = refused(place, azure, "azureml://registries/shelf/models/other/versions/2")
    assert "is no Hugging Face model: it is an ONNX model" in text


def test_a_model_that_changed_under_its_version(place: Place, azure: Azure) -> None:
    signed_in(place, azure)
    place.recipe.write_text(RECIPE.format(source=f"{PHI}/versions/3"))
    assert place.build().ran == ["base"]
    shutil.rmtree(place.cache / "downloads")
    file = azure.folder / "phi/3/mlflow_model_folder/data/config/config.json"
    file.write_text(file.read_text() + " ")
    done = place.build()
    assert done.code == 1
    assert "it is not what olivebuild.lock pins" in done.err


@pytest.mark.parametrize("path", ["rows/tone.jsonl", "rows", "rows/*.jsonl"])
def test_rows_of_a_datastore(place: Place, azure: Azure, path: str) -> None:
    signed_in(place, azure)
    write_rows(azure.folder / "rows/tone.jsonl", rows())
    source = IN_WORK.replace("/models/phi", f"/datastores/store/paths/{path}")
    fields = f'source: "{source}", prompt: "{{phrase}}", completion: "{{tone}}"'
    place.recipe.write_text(f"targets:\n  tone: {{kind: dataset, {fields}}}\n")
    done = place.build()
    assert done.ran == ["tone"], done.err
    report = json.loads(place.built("tone", "report.json"))
    assert report["train"]["rows"] + report["test_split"]["rows"] == len(rows())
    check_no_secret(place, done.out, done.err)
    azure.asked.clear()
    assert place.build().ran == []
    assert azure.asked == []


def test_a_form_that_is_none_is_told_with_its_line(place: Place) -> None:
    place.recipe.write_text(RECIPE.format(source=PHI))
    done = place.run("plan")
    assert done.code == 2
    assert "olivebuild.yaml:2:" in done.err
    assert "is none of the forms of azureml://" in done.err


CLIENT = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": "work"}
WORKFLOW: dict[str, Any] = {
    "azureml_client": CLIENT,
    "input_model": {
        "type": "PyTorchModel",
        "config": {
            "hf_config": {"from_pretrained_args": {"trust_remote_code": True}},
            "model_file_format": "PyTorch.MLflow",
            "model_path": {
                "type": "azureml_registry_model",
                "config": {"registry_name": "shelf", "name": "phi", "version": "3"},
            },
        },
    },
    "data_configs": [
        {
            "name": "tones",
            "type": "HuggingfaceContainer",
            "params_config": {
                "data_name": "json",
                "data_files": {
                    "type": "azureml_datastore",
                    "config": {
                        "azureml_client": CLIENT,
                        "datastore_name": "store",
                        "relative_path": "rows/tone.jsonl",
                    },
                },
                "split": "train",
                "component_kwargs": {
                    "pre_process_data": {
                        "dataset_type": "corpus",
                        "corpus_strategy": "join",
                        "text_template": "### {phrase}: {tone}",
                        "source_max_len": 32,
                    }
                },
            },
        }
    ],
    "passes": {
        "lora": {
            "type": "LoRA",
            "config": {
                "train_data_config": "tones",
                "lora_r": 4,
                "target_modules": ["qkv_proj", "o_proj"],
                "training_args": {"max_steps": 2, "per_device_train_batch_size": 2},
            },
        }
    },
}


def test_a_workflow_of_olive_with_model_and_rows_in_azure(place: Place, azure: Azure) -> None:
    signed_in(place, azure)
    write_rows(azure.folder / "rows/tone.jsonl", rows())
    (place.folder / "tones.json").write_text(json.dumps(WORKFLOW))
    done = place.run("run", "--config", "tones.json")
    assert done.code == 0, done.err
    config = json.loads(place.built("tones", "lora", "adapter_config.json"))
    assert config["r"] == 4
    check_no_secret(place, done.out, done.err)
    azure.asked.clear()
    assert place.run("run", "--config", "tones.json").code == 0
    assert azure.asked == []
