"""Jobs of Azure ML, from a service on loopback that runs their very commands; code in Azurite."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.api.site import JobState, Needs
from olivebuild.core.errors import InputError
from olivebuild.executors.launchers.azureml import AzureML, open_launcher
from olivebuild.executors.launchers.azureml_job import Settings
from tests.executors.launchers.test_azureml_job import library
from tests.support.azureml_jobs import CONTAINER, Service, serving
from tests.support.azureml_server import GROUP, SUBSCRIPTION
from tests.support.object_stores import ACCOUNT, azurite, make_container

# What azure-ai-ml warns of is its own.
pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = {
    "subscription": SUBSCRIPTION,
    "resource_group": GROUP,
    "workspace": "work",
    "compute": "gpu",
    "image": "registry.example/train:1",
}


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    library()
    with azurite(tmp_path_factory.mktemp("azurite")) as blobs:
        make_container(blobs, CONTAINER)
        yield blobs


@pytest.fixture
def service(tmp_path: Path, blobs: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(tmp_path / "service", blobs, {"PATH": os.environ["PATH"]}) as service:
        for name, value in service.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OLIVEBUILD_AZUREML_SECONDS", "0.05")
        monkeypatch.delenv("GIT_DIR", raising=False)
        yield service


@pytest.fixture
def azure(service: Service) -> AzureML:
    return AzureML(Settings.of_options(OPTIONS))


def submit(azure: AzureML, folder: Path, name: str, code: str) -> None:
    """Submit a job that runs some Python with olivebuild's code."""
    (folder / name).mkdir()
    words = ["timeit", "-n1", "-r1", code]
    azure.submit(name, words, {"A_SECRET": "of the job"}, folder / name, Needs(seconds=60))


def wait(azure: AzureML, name: str, *states: JobState) -> None:
    for _ in range(4000):
        if (state := azure.state(name)) in states:
            return
        time.sleep(0.05)
    raise AssertionError(state)


def test_a_job_runs_with_this_code_and_its_variables(
    azure: AzureML, service: Service, tmp_path: Path
) -> None:
    code = "import os, olivebuild; print(os.environ['A_SECRET'], olivebuild.__file__)"
    submit(azure, tmp_path, "one", code)
    wait(azure, "one", JobState.ENDED)
    text = service.log("one")
    assert text.startswith(f"of the job {service.folder}")
    assert azure.ending("one") == (
        "Azure ML: one is Completed; its log: https://ml.azure.com/runs/one"
    )
    # No file has the secrets.
    assert "of the job" not in (tmp_path / "one" / "azureml.yml").read_text()
    properties = service.jobs["one"].properties
    assert properties["computeId"].endswith("/computes/gpu")
    assert properties["limits"]["timeout"] == "PT1M"
    # Nothing of the folder's repository is told.
    assert properties["properties"] == {}
    # Equal code is there once.
    asked = len(service.asked)
    submit(azure, tmp_path, "two", "raise SystemExit(3)")
    assert not [line for line in service.asked[asked:] if "startPendingUpload" in line]
    wait(azure, "two", JobState.ENDED)
    assert "Failed" in azure.ending("two")
    assert azure.state("three") is JobState.GONE


def test_cancelled_while_it_runs_and_while_it_waits(
    azure: AzureML, service: Service, tmp_path: Path
) -> None:
    submit(azure, tmp_path, "runs", "import time; time.sleep(60)")
    wait(azure, "runs", JobState.RUNNING)
    azure.cancel("runs")
    wait(azure, "runs", JobState.ENDED)
    assert "Canceled" in azure.ending("runs")
    service.held = True
    submit(azure, tmp_path, "waits", "pass")
    wait(azure, "waits", JobState.QUEUED)
    azure.cancel("waits")
    wait(azure, "waits", JobState.ENDED)
    azure.cancel("waits")
    azure.cancel("never")


def test_a_machine_that_is_taken_away(azure: AzureML, service: Service, tmp_path: Path) -> None:
    file = tmp_path / "begun"
    code = f"import pathlib, time; p = pathlib.Path({str(file)!r}); e = p.exists(); p.touch(); e or time.sleep(60)"  # noqa: E501
    submit(azure, tmp_path, "job", code)
    for _ in range(4000):
        if file.exists():
            break
        time.sleep(0.05)
    service.take_away("job")
    wait(azure, "job", JobState.ENDED)
    assert service.jobs["job"].runs == 2
    assert "Completed" in azure.ending("job")


def test_what_the_compute_can_not_give(azure: AzureML, service: Service) -> None:
    assert azure.refusal(Needs(gpus=1, memory=50 << 30, cores=6)) == ""
    assert azure.refusal(Needs(gpus=2)) == (
        "it asks for 2 GPUs, and gpu has Standard_NC6s_v3 with 1"
    )
    assert "7 cores" in azure.refusal(Needs(cores=7))
    assert "200 GB of memory" in azure.refusal(Needs(memory=200 << 30))
    assert "2 nodes" in azure.refusal(Needs(nodes=2))
    other = AzureML(Settings.of_options({**OPTIONS, "compute": "none"}))
    assert other.refusal(Needs()) == "the workspace work has no compute none"
    serverless = {k: v for k, v in OPTIONS.items() if k != "compute"}
    assert AzureML(Settings.of_options(serverless)).refusal(Needs(gpus=8)) == ""


def test_where_inputs_go_through(
    azure: AzureML, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert azure.datastore_url() == f"az://{ACCOUNT}/{CONTAINER}/olivebuild"
    asked = len(service.asked)
    launcher = open_launcher({**OPTIONS, "exchange": "file:///x"}, tmp_path)
    assert launcher._place() == "file:///x"
    monkeypatch.setenv("OLIVEBUILD_EXCHANGE", "file:///y")
    assert open_launcher(OPTIONS, tmp_path)._place() == "file:///y"
    assert len(service.asked) == asked


def test_nobody_is_signed_in(
    azure: AzureML, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "another's")
    with pytest.raises(InputError, match="Azure refuses") as e:
        azure.state("one")
    assert "az login" in e.value.hint
    assert "another's" not in e.value.fact


def test_tokens_are_sent_to_no_other_place(monkeypatch: pytest.MonkeyPatch) -> None:
    library()
    monkeypatch.setenv("OLIVEBUILD_AZURE_MANAGEMENT", "http://example.org")
    with pytest.raises(InputError, match="where tokens can't be sent"):
        AzureML(Settings.of_options(OPTIONS)).state("one")


def test_a_service_that_does_not_answer_stops_no_job(
    azure: AzureML, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(azure, tmp_path, "job", "import time; time.sleep(60)")
    wait(azure, "job", JobState.RUNNING)

    def fails(*_: object) -> None:
        raise ValueError("no answer")

    monkeypatch.setattr(azure._client.jobs, "get", fails)
    time.sleep(0.1)
    assert azure.state("job") is JobState.RUNNING
    monkeypatch.setattr("olivebuild.executors.launchers.azureml.PATIENCE", 0.0)
    with pytest.raises(InputError, match="no answer"):
        azure.state("job")
