"""Object stores that fail, change or refuse: the right result, or one clear error."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from olivebuild.ml.models.remotes.objects import azure as azure_module
from olivebuild.ml.models.remotes.objects import client
from tests.ml.remotes.asking import Asking
from tests.ml.remotes.conftest import Cloud
from tests.support.object_stores import ACCOUNT, KEY, connection_string
from tests.support.server_faults import broken_off, slow, status

ROWS = b"".join(b'{"a": "row %d"}\n' % i for i in range(20))
LONG = bytes(range(256)) * 4000
"""About a megabyte."""


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
        if len(cloud.gets) == 5:
            cloud.put("rows.jsonl", LONG[::-1])
        return False

    cloud.gateway.faults.append(change)
    assert "it has changed" in rows.error(rows.fetch).fact
    assert not list((rows.folder / "cache").glob("downloads/*/files/*"))


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
    assert all("a.jsonl" in line for line in cloud.gets)
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
