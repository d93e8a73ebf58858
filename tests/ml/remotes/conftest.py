"""Object stores on loopback, one of each for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(params=["azure", "s3"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """Each of the stores."""
    found: Cloud = request.getfixturevalue(request.param)
    return found
