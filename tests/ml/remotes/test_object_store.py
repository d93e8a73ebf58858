"""Data and models in object stores: Azurite and moto on loopback, asked as a worker asks."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from olivebuild.ml.models import fetch
from olivebuild.ml.models.remotes.objects import azure as azure_module
from olivebuild.ml.models.remotes.objects import download
from tests.ml.remotes.asking import Asking
from tests.ml.remotes.conftest import Cloud
from tests.support.azureml_server import serving
from tests.support.object_stores import ACCOUNT, KEY, connection_string, keep_versions

ROWS = b"".join(b'{"a": "row %d"}\n' % i for i in range(20))
LONG = bytes(range(256)) * 4000
"""About a megabyte."""


def test_a_file_is_pinned_fetched_once_and_an_update_costs_one_request(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    cloud.put("data/rows.jsonl", LONG)
    rows = asking("data/rows.jsonl")
    assert rows.pin().startswith(f"size {len(LONG)}, etag ")
    assert [line.split()[0] for line in cloud.gateway.asked] == ["HEAD"]
    assert rows.fetch().read_bytes() == LONG
    assert rows.fetch().name == "rows.jsonl"
    assert len(cloud.gets) == -(-len(LONG) // download.SEGMENT)
    cloud.gateway.asked.clear()
    # Nobody is asked for what is here.
    assert rows.fetch().read_bytes() == LONG
    assert cloud.gateway.asked == []
    before = rows.pinned
    assert rows.pin() == before
    assert len(cloud.gateway.asked) == 1
    said = [json.loads(line) for line in rows.said.getvalue().splitlines()]
    progress = [line for line in said if line["event"] == "progress"]
    assert progress[-1] == {
        "event": "progress",
        "what": "fetching",
        "done": len(LONG),
        "total": len(LONG),
    }


def test_a_folder_and_a_pattern_bring_their_files(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    names = ["train/a.jsonl", "train/b c.csv", "train/deep/c.jsonl", "train/_SUCCESS", "test.jsonl"]
    for name in names:
        cloud.put(f"set/{name}", name.encode())
    folder = asking("set/train")
    assert folder.pin().startswith("3 files, ")
    expected = {name: f"train/{name}".encode() for name in ("a.jsonl", "b c.csv", "deep/c.jsonl")}
    assert folder.files() == expected
    with_slash = asking("set/train/")
    with_slash.pin()
    assert with_slash.files() == expected
    pattern = asking("set/**/*.jsonl")
    pattern.pin()
    assert set(pattern.files()) == {"test.jsonl", "train/a.jsonl", "train/deep/c.jsonl"}
    one = asking("set/tr*/[a-b].jsonl")
    one.pin()
    assert one.files() == {"train/a.jsonl": b"train/a.jsonl"}
    fact = asking("set/*.parquet")
    assert "it matches no object" in fact.error(fact.pin).fact


def test_a_download_goes_on_where_it_ended(cloud: Cloud, asking: Callable[..., Asking]) -> None:
    cloud.put("rows.jsonl", LONG)
    rows = asking("rows.jsonl")
    rows.pin()

    def refuse(handler: Any) -> bool:
        if len(cloud.gets) <= 8:
            return False
        handler.send(403, [], b"")
        return True

    cloud.gateway.faults.append(refuse)
    assert "access is denied" in rows.error(rows.fetch).fact
    cloud.gateway.faults.clear()
    cloud.gateway.asked.clear()
    assert rows.fetch().read_bytes() == LONG
    assert len(cloud.gets) <= -(-len(LONG) // download.SEGMENT) - 8 + download.CONNECTIONS
    assert "the download goes on" in rows.said.getvalue()


def test_a_pinned_version_is_read_after_it_was_overwritten(
    s3: Cloud, moto_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    keep_versions(moto_address, s3.source.split("/")[2])
    s3.put("rows.jsonl", ROWS)
    rows = Asking(tmp_path, s3.source + "rows.jsonl")
    assert ", version " in rows.pin()
    s3.put("rows.jsonl", ROWS[::-1])
    assert rows.fetch().read_bytes() == ROWS
    before = rows.pinned
    assert rows.pin() != before
    assert rows.fetch().read_bytes() == ROWS[::-1]


def test_a_signature_goes_to_the_account_that_it_is_for_alone() -> None:
    variables = {"AZURE_STORAGE_ACCOUNT": "mine", "AZURE_STORAGE_SAS_TOKEN": "sig=planted"}
    of = azure_module.of_environment
    assert of("mine", variables) == {"SharedAccessSignature": "sig=planted"}
    assert of("another", variables) == {}
    assert of("mine", {"AZURE_STORAGE_SAS_TOKEN": "sig=planted"}) == {}
    assert of("another", {"AZURE_STORAGE_CONNECTION_STRING": connection_string("http://h")}) == {}
    development = {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}
    assert of(ACCOUNT, development)["BlobEndpoint"].startswith("http://127.0.0.1:10000/")


def test_a_path_of_a_datastore_is_read_with_the_key_that_its_workspace_keeps(
    azure: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.put("data/rows.jsonl", ROWS)
    container = azure.source.split("/")[-2]
    with serving(tmp_path / "models") as server:
        server.datastores["workspaceblobstore"] = {
            "datastoreType": "AzureBlob",
            "accountName": ACCOUNT,
            "containerName": container,
            "protocol": "http",
            "endpoint": azure.gateway.address.removeprefix("http://"),
            "credentials": {"credentialsType": "AccountKey"},
        }
        server.secrets["workspaceblobstore"] = {"secretsType": "AccountKey", "key": KEY}
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        workspace = (
            "azureml://subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/models-rg"
            "/workspaces/work/datastores"
        )
        rows = Asking(tmp_path, f"{workspace}/workspaceblobstore/paths/data/rows.jsonl")
        rows.pin()
        assert rows.fetch().read_bytes() == ROWS
        folder = Asking(tmp_path, f"{workspace}/workspaceblobstore/paths/data/")
        folder.pin()
        assert folder.files() == {"rows.jsonl": ROWS}
        server.asked.clear()
        assert rows.fetch().read_bytes() == ROWS
        assert server.asked == []
        gone = Asking(tmp_path, f"{workspace}/gone/paths/data/")
        assert "gone" in gone.error(gone.pin).fact
    assert KEY not in rows.said.getvalue()


def test_a_service_account_of_google_is_asked_for_a_token(
    gs: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    sent: list[str] = []

    def note(handler: Any) -> bool:
        if handler.path == "/token":
            answer = json.dumps({"access_token": "planted-token", "expires_in": 3600}).encode()
            handler.send(200, [("Content-Type", "application/json")], answer)
            return True
        sent.append(handler.headers.get("Authorization", ""))
        return False

    gs.gateway.faults.append(note)
    account = {
        "type": "service_account",
        "client_email": "rows@example.org",
        "private_key": key.decode(),
        "token_uri": f"{gs.gateway.address}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    for name, value in gs.environment.items():
        monkeypatch.setenv(name, value)
    gs.put("rows.jsonl", ROWS)
    rows = Asking(tmp_path, gs.source + "rows.jsonl")
    rows.pin()
    assert rows.fetch().read_bytes() == ROWS
    assert set(sent) == {"Bearer planted-token"}
    leaks = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert not any(b"planted-token" in p.read_bytes() for p in leaks)
    assert "planted-token" not in rows.said.getvalue()


@pytest.mark.slow
def test_a_gibibyte_is_fetched_in_less_than_200_mb(azure: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    with open(file, "wb") as f:
        for _ in range(1024):
            f.write(os.urandom(1 << 20))
    obstore.put(azure.store, "long.jsonl", file)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from olivebuild.core.host import peak_rss\n"
        "from tests.ml.remotes.asking import Asking\n"
        "rows = Asking(Path(sys.argv[1]), sys.argv[2])\n"
        "rows.pin()\n"
        "print(rows.fetch())\n"
        "print(peak_rss())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), azure.source + "long.jsonl"]
    done = subprocess.run(
        command, env=os.environ | azure.environment, check=True, capture_output=True, text=True
    )
    place, peak = done.stdout.splitlines()
    assert filecmp.cmp(place, file, shallow=False)
    assert int(peak) < 200 * 10**6


def test_a_model_is_looked_at_before_its_weights_come(
    cloud: Cloud, asking: Callable[..., Asking], tiny_model: Path
) -> None:
    for file in tiny_model.iterdir():
        if file.is_file():
            cloud.put(f"models/tiny/{file.name}", file.read_bytes())
    cloud.put("models/tiny/pytorch_model.bin", LONG)
    model = asking("models/tiny", kind="model")
    model.pin()
    cloud.gateway.asked.clear()
    fetch.look_at(model.job(), model.source)
    assert not any("safetensors" in line for line in cloud.gets)
    names = set(model.files())
    assert "model.safetensors" in names
    assert "pytorch_model.bin" not in names
    shutil.rmtree(model.folder / "cache")
    obstore.delete(cloud.store, "models/tiny/config.json")
    model.pin()
    error = model.error(lambda: fetch.look_at(model.job(), model.source))
    assert "is no Hugging Face model" in error.fact
