"""Places in object stores and on web servers: what is read, and what is refused."""

from __future__ import annotations

import pytest

from olivebuild.core.errors import HasCredential, InvalidValue
from olivebuild.formats.object_urls import (
    Blobs,
    azure,
    azure_file_system,
    azure_web,
    blobs_of,
    bucket,
    check_credentials,
    web,
)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("//acct/c/a/b.jsonl", "acct.blob.core.windows.net/c/a/b.jsonl"),
        ("//acct/$web/a", "acct.blob.core.windows.net/$web/a"),
        ("//acct/c/a/", "acct.blob.core.windows.net/c/a/"),
        ("//acct/c/**/*.csv", "acct.blob.core.windows.net/c/**/*.csv"),
    ],
)
def test_a_place_in_a_container_is_read(rest: str, expected: str) -> None:
    assert azure(rest) == expected
    assert str(blobs_of(expected)) == expected


@pytest.mark.parametrize(
    "rest",
    [
        "acct/c/a",
        "//ac/c/a",
        "//Acct/c/a",
        "//acct",
        "//acct/c",
        "//acct/c/",
        "//acct/c//a",
        "//acct/c/a//",
        "//acct/c/a/../b",
        "//acct/c/./b",
        "//acct/c/a\\b",
        "//acct/c/a\nb",
        "//acct.blob.core.windows.net/c/a",
    ],
)
def test_what_is_no_place_in_a_container_is_none(rest: str) -> None:
    assert azure(rest) is None


def test_a_path_may_hold_what_ends_a_host() -> None:
    place = blobs_of("acct.blob.core.windows.net/c/a/b/c")
    assert place == Blobs("acct.blob.core.windows.net", "c", "a/b/c")
    assert place.account == "acct"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "acct.dfs.core.windows.net.evil.example", "acct.file.core.windows.net"],
)
def test_hosts_of_others_are_no_storage_accounts(host: str) -> None:
    assert azure_file_system(f"//c@{host}/a") is None
    assert azure_web(f"https://{host}/c/a") is None


def test_both_endpoints_of_a_zone_are_one_place() -> None:
    expected = "acct.z12.blob.storage.azure.net/c/a"
    assert azure_web("https://acct.z12.dfs.storage.azure.net/c/a") == expected
    assert azure_web("https://ACCT.z12.blob.storage.azure.net/c/a") == expected
    assert azure_file_system("//c@acct.z12.dfs.storage.azure.net/a") == expected


@pytest.mark.parametrize(
    ("tail", "fact"),
    [
        ("/c/a?sv=1", "the URL of an Azure object has a query"),
        ("/c/a#part", "the URL of an Azure object has a query"),
        (":8443/c/a", "the URL of an Azure object has a query"),
        ("/c", "'https://acct.blob.core.windows.net/c' names no object"),
        ("/c/%2e%2e/b", "'https://acct.blob.core.windows.net/c/%2e%2e/b' names no object"),
        ("/c/a%5Cb", "'https://acct.blob.core.windows.net/c/a%5Cb' names no object"),
    ],
)
def test_an_azure_url_names_an_object_and_nothing_else(tail: str, fact: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        azure_web(f"https://acct.blob.core.windows.net{tail}")
    assert caught.value.problem.fact == fact
    assert caught.value.problem.hint


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("//my.bucket/k/a.csv", "my.bucket/k/a.csv"),
        ("//bucket/k/", "bucket/k/"),
        ("//b/k", None),
        ("//bucket-/k", None),
        ("//bucket", None),
        ("//bucket/", None),
        ("//bucket//k", None),
        ("//user@bucket/k", None),
        ("bucket/k", None),
    ],
)
def test_a_bucket_and_a_key(rest: str, expected: str | None) -> None:
    assert bucket(rest) == expected


@pytest.mark.parametrize(
    "text",
    ["https://h", "https://h/", "https://h/a/", "https:///a", "https://h/a b", "https://h/%2e%2e"],
)
def test_a_url_without_a_file_is_none(text: str) -> None:
    assert web(text) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8", "[::1]:8"])
def test_only_this_machine_is_asked_without_encryption(host: str) -> None:
    url = f"http://{host}/a.csv"
    assert web(url) == url
    with pytest.raises(InvalidValue, match="not encrypted"):
        web("http://127.0.0.1.example/a.csv")


@pytest.mark.parametrize(
    "text",
    [
        "https://planted@h.example/a",
        "https://user:planted@h.example/a",
        "s3://AKIA:planted@bucket/k",
        "abfss://c:planted@acct.dfs.core.windows.net/a",
        "https://h.example/a?SIG=planted",
        "https://h.example/a?x=1&X-Amz-Security-Token=planted",
        "https://h.example/a?api_key=planted",
        "https://h.example/a?sig",
    ],
)
def test_a_credential_in_a_url_is_told_without_it(text: str) -> None:
    with pytest.raises(HasCredential) as caught:
        check_credentials(text)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "abfss://c@acct.dfs.core.windows.net/a",
        "https://h.example/a@v1?dl=1",
        "https://h.example/a?signal=1&keys=2&monkey=3",
        "s3://bucket/a:b@c",
    ],
)
def test_what_looks_a_little_like_a_credential_is_none(text: str) -> None:
    check_credentials(text)
