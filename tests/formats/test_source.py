"""What `source:` may say."""

from __future__ import annotations

import pytest

from olivebuild.core.errors import HasCredential
from olivebuild.formats.source import Source


@pytest.mark.parametrize(
    ("text", "scheme", "name", "version", "member"),
    [
        ("models/phi", "file", "models/phi", "", ""),
        ("../data/*.jsonl", "file", "../data/*.jsonl", "", ""),
        ("/abs/path", "file", "/abs/path", "", ""),
        ("C:\\models\\phi", "file", "C:\\models\\phi", "", ""),
        ("C:/models/phi", "file", "C:/models/phi", "", ""),
        ("./odd:name", "file", "./odd:name", "", ""),
        ("gguf:phi.gguf", "gguf", "phi.gguf", "", ""),
        ("gguf:C:/phi.gguf", "gguf", "C:/phi.gguf", "", ""),
        (
            "hf:microsoft/Phi-3-mini-4k-instruct",
            "hf",
            "microsoft/Phi-3-mini-4k-instruct",
            "main",
            "",
        ),
        ("hf:gpt2", "hf", "gpt2", "main", ""),
        ("hf:a/b.c@refs/pr/1", "hf", "a/b.c", "refs/pr/1", ""),
        (
            "pypi:phi-weights==1.0.post1!phi/model.gguf",
            "pypi",
            "phi-weights",
            "1.0.post1",
            "phi/model.gguf",
        ),
        ("az://acct/c/a/b.jsonl", "az", "acct.blob.core.windows.net/c/a/b.jsonl", "", ""),
        (
            "https://acct.dfs.core.windows.net/c/a%20b/",
            "az",
            "acct.blob.core.windows.net/c/a b/",
            "",
            "",
        ),
        (
            "https://onelake.dfs.fabric.microsoft.com/Team/Lake.Lakehouse/Files/*.csv",
            "az",
            "onelake.blob.fabric.microsoft.com/Team/Lake.Lakehouse/Files/*.csv",
            "",
            "",
        ),
        (
            "abfss://c@acct.dfs.core.usgovcloudapi.net/a",
            "az",
            "acct.blob.core.usgovcloudapi.net/c/a",
            "",
            "",
        ),
        ("s3://my.bucket/k/**/*.json", "s3", "my.bucket/k/**/*.json", "", ""),
        ("gs://bucket/k/", "gs", "bucket/k/", "", ""),
        ("https://h.org/a.csv?dl=1", "https", "https://h.org/a.csv?dl=1", "", ""),
        ("http://127.0.0.1:8/a.csv", "https", "http://127.0.0.1:8/a.csv", "", ""),
    ],
)
def test_a_source_is_read(text: str, scheme: str, name: str, version: str, member: str) -> None:
    assert Source.parse(text) == Source(text, scheme, name, version, member)


def test_a_version_may_have_an_epoch() -> None:
    found = Source.parse("pypi:x==1!2.0!m.gguf")
    assert (found.version, found.member) == ("1!2.0", "m.gguf")


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("x", False),
        ("gguf:x", False),
        ("hf:x", True),
        ("pypi:x==1!y", True),
        ("s3://bucket/k", True),
        ("azureml://registries/r/models/m/versions/1", True),
    ],
)
def test_hub_and_index_are_remote(text: str, remote: bool) -> None:
    assert Source.parse(text).remote is remote


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty source"),
        ("   ", "an empty source"),
        ("base\0x", "a source with a zero character"),
        ("gguf:", "'gguf:' is not of the form gguf:FILE"),
        ("hf:", "'hf:' is not of the form hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
        ("hf:a/b/c", "'hf:a/b/c' is not of the form hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
        ("hf:a/b@", "'hf:a/b@' is not of the form hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
        ("hf:a b", "'hf:a b' is not of the form hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
        ("pypi:x", "'pypi:x' is not of the form pypi:PACKAGE==VERSION!FILE"),
        ("pypi:x>=1!f", "'pypi:x>=1!f' is not of the form pypi:PACKAGE==VERSION!FILE"),
        ("pypi:x==1", "'pypi:x==1' is not of the form pypi:PACKAGE==VERSION!FILE"),
        (
            "pypi:--index-url==1!f",
            "'pypi:--index-url==1!f' is not of the form pypi:PACKAGE==VERSION!FILE",
        ),
        (
            "ftp://example.org/x",
            "unknown source scheme 'ftp': known are a path, gguf, hf, pypi, az, s3, gs, "
            "azureml, https",
        ),
        ("s3:x", "'s3:x' is not of the form s3://BUCKET/KEY"),
        ("s3://b/x", "'s3://b/x' is not of the form s3://BUCKET/KEY"),
        ("gs://rows", "'gs://rows' is not of the form gs://BUCKET/KEY"),
        ("az://acct/c", "'az://acct/c' is not of the form az://ACCOUNT/CONTAINER/PATH"),
        ("az://acct/c/../x", "'az://acct/c/../x' is not of the form az://ACCOUNT/CONTAINER/PATH"),
        ("https://example.org/", "'https://example.org/' is not of the form https://HOST/FILE"),
        ("https://[::1", "'https://[::1' is not of the form https://HOST/FILE"),
        (
            "http://example.org/x.csv",
            "an http: URL is not encrypted on its way; name the https: one, if there is one",
        ),
    ],
)
def test_what_is_no_source_is_told(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared in full below
        Source.parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "https://acct.blob.core.windows.net/c/x?sv=2021&sig=planted",
        "https://user:planted@example.org/x.csv",
        "https://example.org/x.csv?X-Amz-Credential=a&X-Amz-Signature=planted",
        "https://example.org/x.csv?access_token=planted",
        "az://acct/c/x?sig=planted",
    ],
)
def test_a_credential_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(HasCredential) as caught:
        Source.parse(text)
    assert "planted" not in str(caught.value)
    assert "never from a recipe" in str(caught.value)
