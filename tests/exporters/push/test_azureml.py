"""Models of Azure ML, registered by azure-ai-ml itself: a service on loopback, files in Azurite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.core.errors import BuildError, InputError
from olivebuild.exporters import manifest
from olivebuild.exporters.push.azureml import TAG
from olivebuild.exporters.push.place import parse
from olivebuild.exporters.push.pushing import Pusher
from olivebuild.exporters.push.records import Export, Pushed
from tests.executors.launchers.test_azureml_job import library
from tests.exporters.push.test_hub import folder_of
from tests.support.azureml_jobs import CONTAINER, Service, serving
from tests.support.azureml_server import GROUP, SUBSCRIPTION, TOKEN
from tests.support.object_stores import ACCOUNT, azure_store, azurite, make_container
from tests.support.tls_proxy import proxy

pytestmark = [pytest.mark.slow]
WORK = f"azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}/workspaces/work"


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    library()
    with azurite(tmp_path_factory.mktemp("azurite")) as blobs:
        make_container(blobs, CONTAINER)
        yield blobs


@pytest.fixture
def service(tmp_path: Path, blobs: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    host = f"{ACCOUNT}.blob.core.windows.net"
    (tmp_path / "service").mkdir()
    with (
        serving(tmp_path / "service", blobs, {"PATH": os.environ["PATH"]}) as service,
        proxy(tmp_path / "service", host, blobs) as variables,
    ):
        service.signed = True
        for name, value in {**service.environment, **variables}.items():
            monkeypatch.setenv(name, value)
        yield service


def push(folder: Path, text: str = f"{WORK}/models/tone") -> Pushed:
    with Pusher(parse(text)) as pusher:
        return pusher.push(
            Export(folder=str(folder), target="m", digest=folder.name * 32, version="1")
        )


def held(service: Service, name: str, version: str) -> dict[str, bytes]:
    """Return the files that a version is made of, as the datastore has them."""
    import obstore

    uri = service.assets[f"models/{name}/versions/{version}"]["properties"]["modelUri"]
    prefix = uri.partition("/paths/")[2].strip("/")
    store = azure_store(service.blobs, CONTAINER)
    return {
        str(entry["path"]).removeprefix(f"{prefix}/"): bytes(
            obstore.get(store, entry["path"]).bytes()
        )
        for page in obstore.list(store, prefix=prefix)
        for entry in page
    }


def test_versions_of_a_model(service: Service, tmp_path: Path) -> None:
    one, two = folder_of(tmp_path, 1), folder_of(tmp_path, 2, MLmodel=b"flavors: {}\n")
    done = push(one)
    assert (done.text, done.new) == (f"{WORK}/models/tone/versions/1", True)
    assert held(service, "tone", "1") == {p.name: p.read_bytes() for p in one.iterdir()}
    about = service.assets["models/tone/versions/1"]["properties"]
    assert about["modelType"] == "custom_model"
    assert about["tags"][TAG] == manifest.sha256_of(one / manifest.NAME)
    # The same again is there; another is the next, and of the kind that it is.
    again = push(one)
    assert (again.text, again.new) == (done.text, False)
    assert push(two).text.endswith("/models/tone/versions/2")
    assert held(service, "tone", "2") == {p.name: p.read_bytes() for p in two.iterdir()}
    assert service.assets["models/tone/versions/2"]["properties"]["modelType"] == "mlflow_model"
    with pytest.raises(BuildError, match="is there already, with other files"):
        push(two, f"{WORK}/models/tone/versions/1")
    assert push(two, f"{WORK}/models/other/versions/7").text.endswith("/models/other/versions/7")


def test_a_refusal_is_known_before_anything_is_written(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "another")
    with pytest.raises(InputError, match="Azure refuses") as caught:
        Pusher(parse(f"{WORK}/models/tone")).__enter__()
    assert TOKEN not in caught.value.fact
    assert not [ident for ident in service.assets if ident.startswith("models/")]
