"""Azure ML's API, against a server that speaks it: models, datastores, and every way to fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olivebuild.core.errors import InputError
from olivebuild.formats.urls import azureml_uri
from olivebuild.formats.urls.azureml_uri import Model, Workspace
from olivebuild.ml.models.remotes.azureml import assets, places, rest
from olivebuild.ml.models.remotes.azureml.places import Place
from olivebuild.ml.models.remotes.azureml.rest import Client
from tests.support.azureml_server import (
    ACCOUNT,
    CONTAINER,
    GROUP,
    KEY,
    SAS,
    SECRETS,
    SUBSCRIPTION,
    TOKEN,
    Answer,
    Azure,
    always,
    clean_environment,
    error,
    of_json,
    once,
    serving,
)

PHI = "azureml://registries/shelf/models/phi"
WORK = Workspace(subscription=SUBSCRIPTION, group=GROUP, name="work")
IN_WORK = (
    f"azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}/workspaces/work/models/phi"
)
STORE = {"datastoreType": "AzureBlob", "accountName": "data", "containerName": "files"}


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """A server with a model of two versions, signed in at."""
    with serving(tmp_path / "container") as azure:
        azure.add("phi", "9", {"MLmodel": b"older"})
        azure.add("phi", "10", {"MLmodel": b"newer"})
        for name, value in (clean_environment() | azure.environment).items():
            monkeypatch.setenv(name, value)
        yield azure


@pytest.fixture
def client(azure: Azure) -> Iterator[Client]:
    with Client("olivebuild.yaml") as client:
        yield client


def model(text: str) -> Model:
    named = azureml_uri.parse(text)
    assert isinstance(named, Model)
    return named


def test_a_model_of_a_registry(azure: Azure, client: Client) -> None:
    asset = assets.find(client, model(f"{PHI}/versions/9"))
    assert (asset.id, asset.version, asset.kind) == (f"{PHI}/versions/9", "9", "mlflow_model")
    place = assets.place_of(client, model(f"{PHI}/versions/9"), asset)
    assert place == Place(
        endpoint=f"{azure.url}/{ACCOUNT}",
        account=ACCOUNT,
        container=CONTAINER,
        path="phi/9/mlflow_model_folder",
        sas=SAS,
    )
    # Where the registry is served is asked once.
    assert len(azure.requests("/discovery")) == 1


@pytest.mark.parametrize("text", [PHI, IN_WORK])
@pytest.mark.parametrize("label", ["/labels/latest", "@latest"])
def test_a_label_is_the_version_that_was_made_last(
    azure: Azure, client: Client, text: str, label: str
) -> None:
    assert assets.find(client, model(text + label)).id == f"{text}/versions/10"


@pytest.mark.parametrize(
    ("credentials", "secrets", "opened"),
    [
        ({"credentialsType": "None"}, {}, {}),
        (
            {"credentialsType": "AccountKey"},
            {"secretsType": "AccountKey", "key": KEY},
            {"account_key": KEY},
        ),
        ({"credentialsType": "Sas"}, {"secretsType": "Sas", "sasToken": f"?{SAS}"}, {"sas": SAS}),
        (
            {"credentialsType": "ServicePrincipal", "tenantId": "t", "clientId": "c"},
            {"secretsType": "ServicePrincipal", "clientSecret": KEY},
            {
                "principal": places.Principal(
                    tenant="t", client="c", secret=KEY, authority="login.microsoftonline.com"
                )
            },
        ),
    ],
)
def test_a_model_of_a_workspace(
    azure: Azure,
    client: Client,
    credentials: dict[str, str],
    secrets: dict[str, str],
    opened: dict[str, str],
) -> None:
    azure.datastores["store"] = STORE | {"endpoint": "core.windows.net", "credentials": credentials}
    azure.secrets["store"] = secrets
    named = model(f"{IN_WORK}/versions/10")
    place = assets.place_of(client, named, assets.find(client, named))
    assert place == Place(
        endpoint="https://data.blob.core.windows.net",
        account="data",
        container="files",
        path="phi/10/mlflow_model_folder",
        **opened,  # type: ignore[arg-type]
    )
    assert bool(azure.requests("listSecrets")) == bool(secrets)
    assert KEY not in repr(place)


def test_a_short_path_is_of_the_models_own_workspace(azure: Azure, client: Client) -> None:
    azure.uris["phi"] = "azureml://datastores/store/paths/models/phi"
    azure.datastores["store"] = STORE | {"credentials": {"credentialsType": "None"}}
    named = model(f"{IN_WORK}/versions/10")
    assert assets.place_of(client, named, assets.find(client, named)).path == "models/phi"


@pytest.mark.parametrize(
    ("about", "place"),
    [
        (
            {"datastoreType": "AzureDataLakeGen2", "accountName": "lake", "filesystem": "raw"},
            Place(
                endpoint="https://lake.blob.core.windows.net",
                account="lake",
                container="raw",
            ),
        ),
        (
            {
                "datastoreType": "OneLake",
                "oneLakeWorkspaceName": "fabric",
                "endpoint": "onelake.dfs.fabric.microsoft.com",
                "artifact": {"artifactType": "LakeHouse", "artifactName": "house.Lakehouse"},
            },
            Place(
                endpoint="https://onelake.blob.fabric.microsoft.com",
                account="onelake",
                container="fabric",
                path="house.Lakehouse/Files",
            ),
        ),
        (
            STORE | {"endpoint": "127.0.0.1:10000", "protocol": "http"},
            Place(endpoint="http://127.0.0.1:10000/data", account="data", container="files"),
        ),
    ],
)
def test_datastores(azure: Azure, client: Client, about: dict[str, object], place: Place) -> None:
    azure.datastores["lake"] = about | {"credentials": {"credentialsType": "None"}}
    assert places.of_datastore(client, WORK, "lake") == place


def refused(client: Client, text: str = f"{PHI}/versions/9") -> tuple[str, str]:
    """Return fact and hint of the error for a model, in which no secret may be."""
    named = model(text)
    with pytest.raises(InputError) as e:
        assets.place_of(client, named, assets.find(client, named))
    assert str(e.value.where) == "olivebuild.yaml"
    assert not any(secret in f"{e.value.fact}{e.value.hint}" for secret in SECRETS)
    assert "\n" not in e.value.fact
    return e.value.fact, e.value.hint


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("azureml://registries/other/models/phi/versions/1", "the registry 'other' is not there"),
        (
            "azureml://registries/shelf/models/psi/versions/1",
            "version '1' of the model 'psi' of the registry 'shelf' is not there",
        ),
        ("azureml://registries/shelf/models/psi@latest", "has no version"),
        (f"{PHI}/versions/11", "version '11' of the model 'phi' of the registry 'shelf'"),
        (f"{IN_WORK}/versions/11", "of the workspace 'work' is not there"),
        (f"{IN_WORK}/versions/9", "the datastore 'store' of the workspace 'work' is not there"),
        (f"{IN_WORK.replace('/work/', '/play/')}/versions/9", "workspace 'play' is not there"),
    ],
)
def test_what_is_not_there_is_named(azure: Azure, client: Client, text: str, fact: str) -> None:
    assert fact in refused(client, text)[0]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("answer", "fact", "hint"),
    [
        (error(401, "Expired", "The token is expired."), "does not accept the sign-in", "az login"),
        (
            error(403, "AuthorizationFailed", "The client 'x' may not read."),
            "you have no permission for the registry 'shelf': The client 'x' may not read.",
            "the role",
        ),
        (error(429, "Throttled", "", **{"Retry-After": "900"}), "too many requests", "900 seconds"),
        (error(400, "Bad", "The name is bad."), "answers 400", "names and version"),
        ((302, {"Location": "https://evil.example"}, b""), "a redirect (302)", "not followed"),
        ((200, JSON, b"<html>"), "can't be read: it is no JSON object", "proxy"),
        ((200, JSON, b"[]"), "it is no JSON object", "proxy"),
        ((200, JSON, b"[" * 100_000), "it is no JSON object", "proxy"),
        ((200, JSON, b'{"registryName": 3}'), "it does not say where it is served", "proxy"),
        ((403, {}, b"<html>"), "you have no permission for the registry 'shelf'", "the role"),
    ],
)
def test_answers_that_are_errors(
    azure: Azure, client: Client, answer: Answer, fact: str, hint: str
) -> None:
    azure.fault = always("/discovery", answer)
    told = refused(client)
    assert fact in told[0]
    assert hint in told[1]


def test_a_fault_that_passes_is_waited_for(
    azure: Azure, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for answer in (
        error(503, "Busy", "The server is busy."),
        error(429, "Throttled", "Slow down.", **{"Retry-After": "7"}),
    ):
        azure.fault = once("/versions/9", answer)
        assert assets.find(client, model(f"{PHI}/versions/9")).version == "9"
    assert 7 in slept


def test_a_fault_that_stays_is_told(
    azure: Azure, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    azure.fault = always("/discovery", error(500, "Internal", "It broke."))
    assert "answers 500 for the registry 'shelf': It broke." in refused(client)[0]
    assert len(azure.requests("/discovery")) == 4


@pytest.mark.parametrize("served", ["https://evil.example/", "http://127.0.0.1:1/"])
def test_a_token_goes_to_no_other_host(azure: Azure, client: Client, served: str) -> None:
    azure.served_at = served
    fact, hint = refused(client)
    assert f"refers to {served}mferp/" in fact
    assert "no token is sent there" in hint


def test_files_may_lie_in_storage_of_the_cloud_alone(azure: Azure, client: Client) -> None:
    elsewhere = {"properties": {"modelUri": "https://evil.example/c/x", "modelType": "x"}}
    azure.fault = lambda path: (
        of_json(elsewhere) if path.endswith("/models/phi/versions/9") else None
    )
    assert "no storage of AzureCloud" in refused(client)[0]


def test_a_models_path_that_is_no_datastores(azure: Azure, client: Client) -> None:
    azure.uris["phi"] = "runs:/abc/model"
    assert "lie at runs:/abc/model" in refused(client, f"{IN_WORK}/versions/9")[0]


@pytest.mark.parametrize(
    ("about", "fact"),
    [
        ({"datastoreType": "AzureFile"}, "is of the kind AzureFile"),
        ({"datastoreType": "AzureBlob"}, "a name is missing"),
        (STORE | {"protocol": "http"}, "it would be read through http"),
        (STORE | {"endpoint": "evil.example"}, "data.evil.example, no storage of AzureCloud"),
        (STORE | {"accountName": "x.evil/"}, "no storage of AzureCloud"),
        (
            {"datastoreType": "OneLake", "endpoint": "evil", "artifact": {"artifactName": "a"}},
            "which is not OneLake",
        ),
        ({"datastoreType": "OneLake", "oneLakeWorkspaceName": "w"}, "a name is missing"),
        (STORE | {"credentials": {"credentialsType": "Certificate"}}, "read by a Certificate"),
    ],
)
def test_datastores_that_are_not_read(
    azure: Azure, client: Client, about: dict[str, object], fact: str
) -> None:
    azure.datastores["store"] = {"credentials": {"credentialsType": "None"}} | about
    azure.secrets["store"] = {"secretsType": "Certificate"}
    assert fact in refused(client, f"{IN_WORK}/versions/9")[0]


def test_a_principal_signs_in_at_the_cloud_alone(azure: Azure, client: Client) -> None:
    credentials = {
        "credentialsType": "ServicePrincipal",
        "tenantId": "t",
        "clientId": "c",
        "authorityUrl": "https://login.evil.example",
    }
    azure.datastores["store"] = STORE | {"credentials": credentials}
    azure.secrets["store"] = {"secretsType": "ServicePrincipal", "clientSecret": KEY}
    fact, _ = refused(client, f"{IN_WORK}/versions/9")
    assert "its principal signs in at login.evil.example, not AzureCloud" in fact


def test_this_machine_has_no_storage_of_a_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLIVEBUILD_AZURE_MANAGEMENT", raising=False)
    with Client("olivebuild.yaml") as client, pytest.raises(InputError, match="no storage of"):
        places.of_url(client, "http://127.0.0.1:8080/account/container/file", "a model")


def test_no_sign_in_is_one_error(
    azure: Azure, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    fact, hint = refused(client)
    assert fact.startswith("no sign-in for Azure: ")
    assert "az login" in hint


def test_a_server_that_is_not_there(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setenv("OLIVEBUILD_AZURE_REGISTRIES", "http://127.0.0.1:1")
    with Client("olivebuild.yaml") as client:
        assert refused(client)[0].startswith("127.0.0.1:1 can't be reached for the registry")


def test_an_answer_without_end_is_not_read(
    azure: Azure, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "LONGEST_ANSWER", 10)
    assert "it is longer than" in refused(client)[0]


def test_the_token_is_sent_with_each_request_and_no_other(azure: Azure, client: Client) -> None:
    assets.find(client, model(f"{PHI}/versions/9"))
    assert len(azure.requests("/identity")) == 1
    assert TOKEN not in repr(client.__dict__)


PARTS = [
    {"name": "1", "properties": {"modelUri": "azureml://datastores/store/paths/x"}},
    {"value": [{"name": "1"}]},
    {"value": [3]},
    {"properties": {"datastoreType": ["AzureBlob"]}},
    {"properties": {"datastoreType": "AzureBlob", "accountName": 3, "containerName": {}}},
    {"properties": STORE | {"credentials": {"credentialsType": "Sas"}}},
    {"properties": STORE | {"credentials": {"credentialsType": "ServicePrincipal"}}},
    {"properties": {"datastoreType": "OneLake", "artifact": 3, "oneLakeWorkspaceName": "w"}},
    {"secretsType": "Sas", "sasToken": 3},
    {"secretsType": ["x"]},
    {"primaryRegionResourceProviderUri": "x", "subscriptionId": "s", "resourceGroup": "g"},
    {"blobReferenceForConsumption": {"credential": {"sasUri": "https://[x"}}},
    {"properties": {"modelUri": "https://[x/y"}},
    {"properties": {"modelUri": 3}},
    {"value": {}},
    {},
]
"""Answers, each to another question."""


@settings(
    max_examples=100,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from([PHI, IN_WORK]), st.lists(st.sampled_from(PARTS), min_size=1, max_size=5))
def test_answers_to_other_questions_are_one_error(
    azure: Azure, client: Client, text: str, answers: list[dict[str, object]]
) -> None:
    left = [*answers]
    azure.fault = lambda path: None if path == "/identity" else of_json(left.pop(0) if left else {})
    client.registries.clear()
    named, fault = model(f"{text}@latest"), None
    try:
        assets.place_of(client, named, assets.find(client, named))
    except InputError as e:
        fault = e
    if fault:
        assert str(fault.where) == "olivebuild.yaml"
        assert "\n" not in fault.fact
