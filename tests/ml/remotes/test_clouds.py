"""Azure's clouds, and where tokens may be sent."""

from __future__ import annotations

import pytest

from olivebuild.core.errors import InputError
from olivebuild.ml.models.remotes.azureml import clouds


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "AzureCloud"),
        ({"AZURE_AUTHORITY_HOST": "https://login.microsoftonline.us/"}, "AzureUSGovernment"),
        ({"AZURE_AUTHORITY_HOST": "login.chinacloudapi.cn"}, "AzureChinaCloud"),
        ({"AZURE_AUTHORITY_HOST": "https://login.partner.microsoftonline.cn"}, "AzureChinaCloud"),
        ({"AZURE_AUTHORITY_HOST": "https://sign-in.example"}, "AzureCloud"),
        ({"AZUREML_CURRENT_CLOUD": "AzureUSGovernment"}, "AzureUSGovernment"),
    ],
)
def test_the_environment_names_the_cloud(environ: dict[str, str], name: str) -> None:
    cloud = clouds.current(environ)
    assert cloud == clouds.CLOUDS[name]
    assert cloud.scope == f"{cloud.management}/.default"


def test_endpoints_can_be_others() -> None:
    cloud = clouds.current({clouds.MANAGEMENT: "http://127.0.0.1:7/", clouds.REGISTRIES: ""})
    assert cloud.management == "http://127.0.0.1:7"
    assert cloud.registries == "https://eastus.api.azureml.ms"
    assert cloud.scope == "https://management.azure.com/.default"


@pytest.mark.parametrize(
    ("environ", "fact"),
    [
        ({clouds.CLOUD: "Cloud9"}, "none of Azure's clouds"),
        ({clouds.MANAGEMENT: "http://management.example"}, "tokens can't be sent"),
        ({clouds.REGISTRIES: "registries"}, "tokens can't be sent"),
    ],
)
def test_an_unknown_cloud_is_an_error(environ: dict[str, str], fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        clouds.current(environ)


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://management.azure.com/subscriptions", True),
        ("https://westus2.api.azureml.ms/mferp", True),
        ("https://cert-eastus.experiments.azureml.net/mferp", True),
        ("https://proxy.example/mferp", True),
        ("http://management.azure.com/", False),
        ("https://management.azure.com.evil.example/", False),
        ("https://evil.example/.api.azureml.ms", False),
        ("https://evil-api.azureml.ms:444/", False),
        ("https://management.usgovcloudapi.net/", False),
        ("http://127.0.0.1:8080/", False),
        ("https://proxy.example:8443/", False),
        ("https://user@evil.example\\@management.azure.com/", False),
        ("https://[x", False),
    ],
)
def test_hosts_that_may_have_a_token(url: str, may: bool) -> None:
    cloud = clouds.current({clouds.REGISTRIES: "https://proxy.example"})
    assert cloud.may_have_token(url) is may


def test_this_machine_may_have_one_where_it_is_named() -> None:
    cloud = clouds.current({clouds.MANAGEMENT: "http://localhost:8080"})
    assert cloud.may_have_token("http://localhost:8080/x")
    assert not cloud.may_have_token("http://localhost:8081/x")
    assert not cloud.may_have_token("http://127.0.0.1:8080/x")
