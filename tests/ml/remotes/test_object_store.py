"""Data in object stores: Azurite and moto on loopback, asked as a worker asks."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest

from olivebuild.ml.models import fetch
from olivebuild.ml.models.remotes.objects import azure as azure_module
from olivebuild.ml.models.remotes.objects import client, download
from tests.ml.remotes.asking import Asking
from tests.ml.remotes.conftest import Cloud
from tests.support.azureml_server import serving
from tests.support.object_stores import ACCOUNT, KEY, connection_string, keep_versions
from tests.support.server_faults import broken_off, slow, status

ROWS = b"".join(b'{"a": "row %d"}\n' % i for i in range(20))
LONG = bytes(range(256)) * 4000
"""About a megabyte."""


@pytest.fixture
def asking(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asking]:
    """Return what asks for a path of the store; segments are small, and waits are short."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(download, "SEGMENT", 1 << 16)
    backoff = {"init_backoff": timedelta(milliseconds=10), "max_backoff": timedelta(seconds=0.1)}
    monkeypatch.setitem(client.RETRIES, "backoff", {**backoff, "base": 2})
    return lambda path, kind="dataset": Asking(tmp_path / "site", cloud.source + path, kind)


def _gets(cloud: Cloud) -> list[str]:
    return [line for line in cloud.gateway.asked if line.startswith("GET ") and "list" not in line]


def test_a_file_is_pinned_fetched_once_and_an_update_costs_one_request(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    cloud.put("data/rows.jsonl", LONG)
    rows = asking("data/rows.jsonl")
    assert rows.pin().startswith(f"size {len(LONG)}, etag ")
    assert [line.split()[0] for line in cloud.gateway.asked] == ["HEAD"]
    assert rows.fetch().read_bytes() == LONG
    assert rows.fetch().name == "rows.jsonl"
    assert len(_gets(cloud)) == -(-len(LONG) // download.SEGMENT)
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


def test_names_that_no_file_can_have_are_refused(
    azure: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in azure.environment.items():
        monkeypatch.setenv(name, value)
    azure.put("set/a.jsonl", b"x")
    azure.put("set/c:d.jsonl", b"x")
    rows = Asking(tmp_path, azure.source + "set/")
    assert "no file can have this name" in rows.error(rows.pin).fact


def test_what_has_changed_is_one_error_that_names_the_update(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    cloud.put("rows.jsonl", ROWS)
    cloud.put("set/a.jsonl", ROWS)
    rows, folder = asking("rows.jsonl"), asking("set/")
    rows.pin()
    folder.pin()
    cloud.put("rows.jsonl", ROWS[::-1])
    cloud.put("set/b.jsonl", ROWS)
    for one in (rows, folder):
        error = one.error(one.fetch)
        assert "it is not what olivebuild.lock pins: it has changed" in error.fact
        assert error.hint == "if the change is expected: `olivebuild update rows`"
    rows.pin()
    assert rows.fetch().read_bytes() == ROWS[::-1]
    folder.pin()
    assert set(folder.files()) == {"a.jsonl", "b.jsonl"}


def test_a_change_in_the_middle_of_a_download_is_told(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    cloud.put("rows.jsonl", LONG)
    rows = asking("rows.jsonl")
    rows.pin()

    def change(_: object) -> bool:
        if len(_gets(cloud)) == 5:
            cloud.put("rows.jsonl", LONG[::-1])
        return False

    cloud.gateway.faults.append(change)
    assert "it has changed" in rows.error(rows.fetch).fact
    assert not list((rows.folder / "cache").glob("downloads/*/files/*"))


def test_a_download_goes_on_where_it_ended(cloud: Cloud, asking: Callable[..., Asking]) -> None:
    cloud.put("rows.jsonl", LONG)
    rows = asking("rows.jsonl")
    rows.pin()

    def refuse(handler: Any) -> bool:
        if len(_gets(cloud)) <= 8:
            return False
        handler.send(403, [], b"")
        return True

    cloud.gateway.faults.append(refuse)
    assert "access is denied" in rows.error(rows.fetch).fact
    cloud.gateway.faults.clear()
    cloud.gateway.asked.clear()
    assert rows.fetch().read_bytes() == LONG
    assert len(_gets(cloud)) <= -(-len(LONG) // download.SEGMENT) - 8 + download.CONNECTIONS
    assert "the download goes on" in rows.said.getvalue()


def test_a_server_that_fails_and_recovers_costs_time_alone(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    cloud.put("rows.jsonl", LONG)
    rows = asking("rows.jsonl")
    cloud.gateway.faults += [status(500, 2), status(503, 2, "GET"), broken_off(2), slow(0.01)]
    rows.pin()
    assert rows.fetch().read_bytes() == LONG


def test_a_server_that_keeps_failing_is_one_error(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    rows = asking("rows.jsonl")
    cloud.gateway.faults.append(status(500, 99))
    error = rows.error(rows.pin)
    assert error.fact.endswith(
        "rows.jsonl: it can't be read: the server answers 500 Internal Server Error"
    )
    assert "secret-in-an-answer" not in f"{error.fact} {error.hint}"


def test_a_server_that_stalls_is_one_error(
    cloud: Cloud, asking: Callable[..., Asking], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(client.CLIENT, "read_timeout", timedelta(seconds=0.2))
    monkeypatch.setitem(client.RETRIES, "max_retries", 1)
    cloud.gateway.faults.append(slow(1))
    rows = asking("rows.jsonl")
    assert "it takes too long" in rows.error(rows.pin).fact


def test_what_is_not_there_is_told(cloud: Cloud, asking: Callable[..., Asking]) -> None:
    rows = asking("gone/rows.jsonl")
    assert "gone/rows.jsonl: it does not exist" in rows.error(rows.pin).fact
    cloud.put("empty/_SUCCESS", b"x")
    folder = asking("empty/")
    error = folder.error(folder.pin)
    assert (error.fact, error.hint) == (
        f"{cloud.source}empty/: none of its 1 files is of a dataset",
        "the first is _SUCCESS",
    )


def test_a_container_that_is_not_there_is_told(cloud: Cloud, asking: Callable[..., Asking]) -> None:
    rows = asking("x")
    container = rows.source.name.split("/")[-2]
    elsewhere = Asking(rows.folder, cloud.source.replace(container, "nobody-has-it") + "rows.jsonl")
    assert "it does not exist" in elsewhere.error(elsewhere.pin).fact


def test_credentials_that_are_refused_are_told_and_not_shown(
    azure: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.put("rows.jsonl", ROWS)
    rows = Asking(tmp_path, azure.source + "rows.jsonl")
    wrong = KEY[:-4] + "AA=="
    string = connection_string(f"{azure.gateway.address}/{ACCOUNT}", wrong)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", string)
    error = rows.error(rows.pin)
    assert "access is denied to the credentials that were found" in error.fact
    assert wrong not in f"{error.fact} {error.hint}"


def test_without_credentials_the_ways_to_them_are_told(
    azure: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.put("rows.jsonl", ROWS)
    rows = Asking(tmp_path, azure.source + "rows.jsonl")
    endpoint = f"{azure.gateway.address}/{ACCOUNT}"
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", f"AccountName={ACCOUNT};BlobEndpoint={endpoint}"
    )
    monkeypatch.setattr(azure_module, "_provider", lambda _: None)
    error = rows.error(rows.pin)
    # Azurite says, as Azure does, that a private object is not there for the public.
    assert "access is denied" in error.fact or "it does not exist" in error.fact


def test_what_is_damaged_in_the_cache_is_fetched_again(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    for name in "ab":
        cloud.put(f"set/{name}.jsonl", LONG)
    rows = asking("set/")
    rows.pin()
    folder = rows.fetch()
    (folder / "a.jsonl").write_bytes(LONG[:-1] + b"x")
    cloud.gateway.asked.clear()
    assert set(rows.files().values()) == {LONG}
    assert all("a.jsonl" in line for line in _gets(cloud))
    assert "damaged in the cache, so fetched again: a.jsonl" in rows.said.getvalue()


def test_content_that_is_not_what_the_lock_file_says_is_told(
    cloud: Cloud, asking: Callable[..., Asking]
) -> None:
    cloud.put("rows.jsonl", ROWS)
    rows = asking("rows.jsonl")
    rows.pin()
    right = hashlib.sha256(ROWS).hexdigest()
    rows.sha256 = {"rows.jsonl": "0" * 64}
    # What was fetched before anything was known of it is fetched again.
    for _ in range(2):
        error = rows.error(rows.fetch)
        assert f"has sha256 {right[:16]}..., olivebuild.lock says 0000000000000000..." in error.fact
    rows.sha256 = {"rows.jsonl": right}
    assert rows.fetch().read_bytes() == ROWS
    rows.sha256 = {"rows.jsonl": "0" * 64}
    assert "olivebuild.lock says" in rows.error(rows.fetch).fact


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


@pytest.mark.parametrize(
    ("source", "module", "extra"),
    [
        ("az://acct/c/x", "obstore.store", "azure"),
        ("s3://bucket/x", "botocore.session", "s3"),
        ("gs://bucket/x", "google.auth", "gcs"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    source: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    rows = Asking(tmp_path, source)
    error = rows.error(rows.pin)
    library = module.partition(".")[0]
    assert error.fact == f"{source} needs the library {library}, which is not installed"
    assert error.hint == f"pip install 'olivebuild[{extra}]'"


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
    assert not any("safetensors" in line for line in _gets(cloud))
    names = set(model.files())
    assert "model.safetensors" in names
    assert "pytorch_model.bin" not in names
    shutil.rmtree(model.folder / "cache")
    obstore.delete(cloud.store, "models/tiny/config.json")
    model.pin()
    error = model.error(lambda: fetch.look_at(model.job(), model.source))
    assert "is no Hugging Face model" in error.fact
