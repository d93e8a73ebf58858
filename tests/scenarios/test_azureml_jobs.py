"""Steps as jobs of Azure ML: a service on loopback that speaks its API runs their very commands.

Inputs and results go through Azurite. Real is azure-ai-ml, which builds, checks and submits the
jobs; what it submits to is not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done, Place
from tests.executors.launchers.test_azureml_job import library
from tests.support.azureml_jobs import CONTAINER, Job, Service, serving
from tests.support.azureml_server import GROUP, SUBSCRIPTION, TOKEN
from tests.support.object_stores import (
    KEY,
    azure_store,
    azurite,
    connection_string,
    make_container,
)

pytestmark = [pytest.mark.scenario, pytest.mark.slow]
EXECUTOR = f"""\
executors:
  aml:
    kind: azureml
    subscription: {SUBSCRIPTION}
    resource_group: {GROUP}
    workspace: work
    compute: gpu
    image: registry.example/train:1
"""


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    library()
    with azurite(tmp_path_factory.mktemp("azurite")) as blobs:
        make_container(blobs, CONTAINER)
        yield blobs


@pytest.fixture
def service(tmp_path: Path, blobs: str) -> Iterator[Service]:
    """A workspace. Its compute's nodes are processes that know nothing of this folder."""
    storage = {"AZURE_STORAGE_CONNECTION_STRING": connection_string(blobs)}
    compute = {
        **storage,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path / "home-of-a-node"),
        "OLIVEBUILD_EXCHANGE_SECONDS": "0.2",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with serving(tmp_path / "service", blobs, compute) as service:
        yield service


@pytest.fixture
def remote(copied: Place, service: Service) -> Place:
    """A recipe whose adapter is to be made by Azure ML, after an edit."""
    copied.environment |= {
        **service.environment,
        "AZURE_STORAGE_CONNECTION_STRING": service.compute["AZURE_STORAGE_CONNECTION_STRING"],
        "OLIVEBUILD_EXCHANGE_SECONDS": "0.2",
        "OLIVEBUILD_AZUREML_SECONDS": "0.2",
    }
    copied.edit("targets:", f"{EXECUTOR}targets:")
    copied.edit("kind: adapter\n", "kind: adapter\n    executor: aml\n")
    copied.edit("steps: 4", "steps: 60, checkpoint_steps: 5")
    return copied


def adapter(place: Place) -> bytes:
    return place.built("adapter", "adapter_model.safetensors")


def local(place: Place) -> bytes:
    """Return what the adapter is when it is made on this machine."""
    other = Place(place.folder, place.cache.with_name("other"), place.environment)
    before = adapter(place)
    done = other.build("--executor", "local", "adapter")
    assert "adapter" in done.ran, done.err
    here = adapter(other)
    place.folder.joinpath("build/adapter/adapter_model.safetensors").write_bytes(before)
    return here


def objects(blobs: str) -> list[str]:
    import obstore

    pages = obstore.list(azure_store(blobs, CONTAINER))
    return [str(entry["path"]) for page in pages for entry in page]


def check_no_secret(place: Place, service: Service, done: Done) -> None:
    secrets = {TOKEN, KEY, *(job_secret(job) for job in service.jobs.values())}
    files = [p for f in (place.folder, place.cache) for p in f.rglob("*") if p.is_file()]
    for secret in secrets:
        assert secret not in done.out + done.err
        assert [p for p in files if secret.encode() in p.read_bytes()] == []


def job_secret(job: Job) -> str:
    return str(job.properties["environmentVariables"]["OLIVEBUILD_EXCHANGE_SECRET"])


def test_an_adapter_is_trained_there_with_the_same_bytes(
    remote: Place, service: Service, blobs: str
) -> None:
    done = remote.build()
    assert done.code == 0, done.err
    assert done.ran == ["adapter", "merged", "onnx-int4"]
    (job,) = service.jobs.values()
    assert job.status == "Completed"
    losses = [e for e in done.events if e["event"] == "metric" and e.get("target") == "adapter"]
    assert len(losses) > 3
    # What is left of it there is blobs; the job's folder and its secret are gone on both sides.
    assert not [name for name in objects(blobs) if "/exchange/" in name]
    check_no_secret(remote, service, done)
    assert adapter(remote) == local(remote)
    asked = len(service.asked)
    assert remote.build().ran == []
    assert len(service.asked) == asked


def wait_for(service: Service, place: Place, what: str) -> Job:
    """Wait until a job has sent a state of its training; return it."""
    for _ in range(6000):
        for job in service.jobs.values():
            folders = place.cache.glob("jobs/*/exchange.json")
            texts = [json.loads(f.read_text()).get("state") for f in folders]
            if job.status == "Running" and any(texts):
                return job
        time.sleep(0.1)
    raise AssertionError(what)


def test_a_machine_that_is_taken_away_goes_on_with_the_same_bytes(
    remote: Place, service: Service
) -> None:
    remote.edit("steps: 60", "steps: 300")
    process = remote.start("build", "--json", "adapter")
    job = wait_for(service, remote, "a state")
    service.take_away(job.name)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert job.runs == 2
    assert job.status == "Completed"
    resumed = [e for e in Done(0, out, err).events if "resum" in json.dumps(e)]
    assert resumed
    assert adapter(remote) == local(remote)


def test_cancelled_and_built_again(remote: Place, service: Service) -> None:
    remote.edit("steps: 60", "steps: 300")
    process = remote.start("build", "--json", "adapter")
    job = wait_for(service, remote, "a state")
    process.send_signal(signal.SIGINT)
    process.communicate()
    for _ in range(200):
        if job.status == "Canceled":
            break
        time.sleep(0.1)
    assert job.status == "Canceled"
    done = remote.build("adapter")
    assert done.ran == ["adapter"], done.err
    assert [e for e in done.events if "resum" in json.dumps(e)]
    assert len(service.jobs) == 2
    assert adapter(remote) == local(remote)


def failed(place: Place) -> str:
    done = place.build("adapter")
    assert done.code == 1
    assert "Traceback" not in done.err
    return done.err


def test_a_job_that_fails_before_it_begins(remote: Place, service: Service) -> None:
    service.fails = "ImageBuildFailure"
    text = failed(remote)
    assert "its command did not begin" in text
    assert "https://ml.azure.com/runs/" in text
    assert len(service.jobs) == 1
    service.fails = ""
    assert remote.build("adapter").ran == ["adapter"]


def test_libraries_of_another_version(remote: Place, service: Service) -> None:
    """The environment of a job is not that of this machine."""
    other = service.folder / "site"
    info = other / "transformers-1.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 1.0.0\n")
    service.compute = {**service.compute, "PYTHONPATH": str(other)}
    text = failed(remote)
    assert "transformers is" in text
    assert "1.0.0 there" in text


def test_what_the_compute_can_not_give_is_told_before_anything_runs(
    remote: Place, service: Service
) -> None:
    remote.edit("executor: aml\n", "executor: aml\n    resources: {gpu: 4}\n")
    text = failed(remote)
    assert "it asks for 4 GPUs, and gpu has Standard_NC6s_v3 with 1" in text
    assert service.jobs == {}


SYSTEMS: dict[str, Any] = {
    "aml": {
        "type": "AzureML",
        "config": {
            "accelerators": ["gpu"],
            "hf_token": True,
            "aml_compute": "gpu",
            "aml_docker_config": {
                "base_image": "registry.example/train:1",
                "conda_file_path": "conda.yaml",
            },
        },
    },
    "azure_arc": {
        "type": "AzureML",
        "config": {
            "accelerators": ["gpu"],
            "aml_compute": "gpu",
            "aml_docker_config": {
                "base_image": "registry.example/train:1",
                "conda_file_path": "conda.yaml",
            },
        },
    },
}
CONDA = """\
name: project_environment
channels:
  - defaults
dependencies:
  - python=3.8.13
  - pip=22.3.1
  - pip:
      - einops
      - azure-identity
      - peft
      - torch>=2.2.0
      - transformers
      - git+https://github.com/microsoft/Olive#egg=olive-ai[gpu]
      - --extra-index-url https://packages.example/simple/
      - onnxruntime-genai-cuda
"""
WORKFLOW: dict[str, Any] = {
    "azureml_client": {
        "subscription_id": SUBSCRIPTION,
        "resource_group": GROUP,
        "workspace_name": "work",
        "keyvault_name": "vault",
    },
    "input_model": {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "tiny"}}},
    "systems": SYSTEMS,
    "data_configs": [
        {
            "name": "tones",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {
                "params": {
                    "data_name": "json",
                    "data_files": "data/tone.jsonl",
                    "split": "train",
                }
            },
            "pre_process_data_config": {
                "params": {
                    "dataset_type": "corpus",
                    "text_template": "### Text: {phrase}\n### The tone is:\n{tone}",
                    "corpus_strategy": "join",
                    "source_max_len": 32,
                }
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
                "training_args": {"max_steps": 4, "per_device_train_batch_size": 2},
            },
        },
        "merge": {"type": "MergeAdapterWeights"},
    },
    "engine": {"host": "aml", "target": "aml", "search_strategy": False},
}


def test_the_systems_of_a_workflow_through_the_import(remote: Place, service: Service) -> None:
    remote.recipe.unlink()
    (remote.folder / "conda.yaml").write_text(CONDA)
    (remote.folder / "olive-config.json").write_text(json.dumps(WORKFLOW))
    done = remote.run("import", "olive-config.json", "-o", ".")
    assert done.code == 0, done.err
    text = remote.recipe.read_text()
    assert "kind: azureml" in text
    done = remote.build()
    assert done.code == 0, done.err
    assert {job.status for job in service.jobs.values()} == {"Completed"}
    environments = [b for p, b in service.assets.items() if p.startswith("environments/")]
    assert environments
    for body in environments:
        conda = body["properties"]["condaFile"]
        # The environment that the import wrote, whose olivebuild comes as the job's code.
        assert "onnxruntime-genai-cuda" in conda
        assert "torch==" in conda
        assert "file://" not in conda
        assert body["properties"]["image"] == "registry.example/train:1"
    # A plan says where they run.
    lines = json.loads(remote.run("plan", "--json").out)
    assert "aml (azureml)" in json.dumps(lines["executors"])
