"""One workflow of Olive in all its forms: wherever rows and model lie, it makes the same bytes.

The forms are those of Olive's documents for fine-tuning Phi-3: rows in a file or in a datastore of
Azure ML, a model in a folder, on the hub or in a registry of Azure ML, LoRA or QLoRA, and systems
of Azure ML with a conda file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Place, rows, write_rows
from tests.scenarios.test_azureml_models import CLIENT, azure, check_no_secret, signed_in
from tests.scenarios.test_olive_workflow import workflow
from tests.support import hub
from tests.support.azureml_server import Azure

__all__ = ["azure"]
pytestmark = pytest.mark.scenario

CONDA = """\
name: project_environment
channels: [defaults]
dependencies:
  - python=3.8.13
  - pip:
      - peft
      - torch>=2.2.0
      - git+https://github.com/microsoft/Olive@a-branch#egg=olive-ai[gpu]
      - --extra-index-url https://packages.example.com/nightly/simple/
      - ort-nightly-gpu==1.18.0.dev20240307004
"""
MODELS: dict[str, dict[str, Any]] = {
    "folder": {"hf_config": {"model_name": "cache/models/small", "task": "text-generation"}},
    "hub": {"hf_config": {"model_name": "own/tiny", "task": "text-generation"}},
    "registry": {
        "model_path": {
            "type": "azureml_registry_model",
            "config": {"name": "phi", "registry_name": "shelf", "version": "3"},
        },
        "model_file_format": "PyTorch.MLflow",
        "hf_config": {"model_name": "own/tiny", "task": "text-generation"},
    },
}
ROWS: dict[str, Any] = {
    "file": "data/tones.jsonl",
    "datastore": {
        "type": "azureml_datastore",
        "config": {
            "azureml_client": CLIENT,
            "datastore_name": "store",
            "relative_path": "rows/tones.jsonl",
        },
    },
}


def form(kind: str, model: str, data: str) -> dict[str, Any]:
    """Return the workflow with its model and rows where they are said to lie."""
    written = workflow(kind)
    written["azureml_client"] = CLIENT
    config = written["input_model"]["config"] = json.loads(json.dumps(MODELS[model]))
    config["hf_config"]["from_pretrained_args"] = {"trust_remote_code": True}
    (source,) = json.loads(json.dumps(written["data_configs"]))
    source["load_dataset_config"]["params"]["data_files"] = ROWS[data]
    docker = {"base_image": "Your docker image", "conda_file_path": "conda.yaml"}
    cloud = written["systems"]["cloud"]
    cloud["config"] |= {"accelerators": ["gpu"], "aml_docker_config": docker}
    arc = {key: value for key, value in cloud["config"].items() if key != "hf_token"}
    written["systems"]["azure_arc"] = {"type": "AzureML", "config": arc}
    return written | {"data_configs": [source]}


def digests(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    assert len(files) > 1
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


@pytest.mark.parametrize("kind", [pytest.param("LoRA", marks=pytest.mark.slow), "QLoRA"])
def test_all_forms_of_a_workflow_make_the_same(
    kind: str, place: Place, azure: Azure, tiny_model: Path
) -> None:
    signed_in(place, azure)
    place.environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"}
    shutil.copytree(tiny_model, place.folder / "cache/models/small")
    write_rows(place.folder / "data/tones.jsonl", rows())
    write_rows(azure.folder / "rows/tones.jsonl", rows())
    (place.folder / "conda.yaml").write_text(CONDA)
    results: dict[str, dict[str, dict[str, str]]] = {}
    with hub.serving(tiny_model) as (address, asked):
        place.environment |= {"HF_ENDPOINT": address}
        for model, data in itertools.product(MODELS, ROWS):
            name = f"{model}-{data}"
            (place.folder / f"{name}.json").write_text(json.dumps(form(kind, model, data)))
            done = place.run("run", "--config", f"{name}.json", "--json", "--executor", "local")
            assert done.code == 0, (name, done.err)
            # What is trained, merged and converted is so once: bytes decide, no matter from where.
            assert ("tune" in done.ran) is not bool(results), (name, done.ran)
            results[name] = {
                target: digests(place.folder / "build" / name / target)
                for target in ("tune", "builder")
            }
            check_no_secret(place, done.out, done.err)
            azure.asked.clear()
            asked.clear()
            done = place.run("run", "--config", f"{name}.json", "--json", "--executor", "local")
            assert (done.code, done.ran, azure.asked, asked) == (0, [], [], []), name
    assert len({json.dumps(result, sort_keys=True) for result in results.values()}) == 1
    assert "genai_config.json" in results["hub-file"]["builder"]
