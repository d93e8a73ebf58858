"""Object stores on loopback, one of each for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from olivebuild.ml.models.remotes.objects import client, download
from tests.ml.remotes.asking import Asking
from tests.support.object_stores import (
    ACCOUNT,
    Gateway,
    azure_store,
    azurite,
    connection_string,
    make_container,
    moto,
    s3_store,
)


@dataclass(kw_only=True)
class Cloud:
    """A store behind a gateway. `environment` is what opens it; `source` is a URL without path."""

    source: str
    store: Any
    gateway: Gateway
    environment: dict[str, str]

    @property
    def gets(self) -> list[str]:
        """Return the requests for objects that were made."""
        asked = self.gateway.asked
        return [line for line in asked if line.startswith("GET ") and "list" not in line]

    def put(self, path: str, data: bytes) -> None:
        import obstore

        obstore.put(self.store, path, data)


@pytest.fixture(scope="session")
def azurite_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with azurite(tmp_path_factory.mktemp("azurite")) as address:
        yield address


@pytest.fixture(scope="session")
def moto_address() -> Iterator[str]:
    with moto() as address:
        yield address


@pytest.fixture
def azure(azurite_address: str, tmp_path: Path) -> Iterator[Cloud]:
    container = f"c-{tmp_path.name.replace('_', '-')}"[:50].strip("-").lower()
    make_container(azurite_address, container)
    gateway = Gateway(azurite_address)
    endpoint = f"{gateway.address}/{ACCOUNT}"
    yield Cloud(
        source=f"az://{ACCOUNT}/{container}/",
        store=azure_store(azurite_address, container),
        gateway=gateway,
        environment={"AZURE_STORAGE_CONNECTION_STRING": connection_string(endpoint)},
    )
    gateway.shutdown()
    gateway.server_close()


@pytest.fixture
def s3(moto_address: str, tmp_path: Path) -> Iterator[Cloud]:
    bucket = f"b-{tmp_path.name.replace('_', '-')}"[:50].strip("-").lower()
    gateway = Gateway(moto_address)
    yield Cloud(
        source=f"s3://{bucket}/",
        store=s3_store(moto_address, bucket),
        gateway=gateway,
        environment={
            "AWS_ENDPOINT_URL": gateway.address,
            "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
            "AWS_SECRET_ACCESS_KEY": "planted-secret-of-s3",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
        },
    )
    gateway.shutdown()
    gateway.server_close()


@pytest.fixture
def gs(moto_address: str, tmp_path: Path) -> Iterator[Cloud]:
    """Google's XML API, which is S3's as far as it is read; moto wants a signature of S3's."""
    # obstore escapes what is no letter or digit, which moto does not undo in names of buckets.
    bucket = f"g{tmp_path.name.replace('_', '')}"[:50].lower()
    scope = "Credential=test/20260101/us-east-1/s3/aws4_request"
    signature = f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=x"
    gateway = Gateway(moto_address, Authorization=signature)
    yield Cloud(
        source=f"gs://{bucket}/",
        store=s3_store(moto_address, bucket),
        gateway=gateway,
        environment={
            "STORAGE_EMULATOR_HOST": gateway.address,
            "CLOUDSDK_CONFIG": str(tmp_path / "nobody"),
            "NO_GCE_CHECK": "true",
        },
    )
    gateway.shutdown()
    gateway.server_close()


@pytest.fixture(params=["azure", "s3", "gs"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """Each of the stores."""
    found: Cloud = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def asking(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asking]:
    """Return what asks for a path of the store; segments are small, and waits are short."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(download, "SEGMENT", 1 << 16)
    backoff = {"init_backoff": timedelta(milliseconds=10), "max_backoff": timedelta(seconds=0.1)}
    monkeypatch.setitem(client.RETRIES, "backoff", {**backoff, "base": 2})
    return lambda path, kind="dataset": Asking(tmp_path / "site", cloud.source + path, kind)
