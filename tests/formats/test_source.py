"""What `source:` may say."""

from __future__ import annotations

import pytest

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
    ],
)
def test_a_source_is_read(text: str, scheme: str, name: str, version: str, member: str) -> None:
    assert Source.parse(text) == Source(text, scheme, name, version, member)


def test_a_version_may_have_an_epoch() -> None:
    found = Source.parse("pypi:x==1!2.0!m.gguf")
    assert (found.version, found.member) == ("1!2.0", "m.gguf")


@pytest.mark.parametrize(
    ("text", "remote"), [("x", False), ("gguf:x", False), ("hf:x", True), ("pypi:x==1!y", True)]
)
def test_hub_and_index_are_remote(text: str, remote: bool) -> None:
    assert Source.parse(text).remote is remote


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty source"),
        ("   ", "an empty source"),
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
        ("http://example.org/x", "unknown source scheme 'http': known are a path, gguf, hf, pypi"),
        ("s3:x", "unknown source scheme 's3': known are a path, gguf, hf, pypi"),
    ],
)
def test_what_is_no_source_is_told(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared in full below
        Source.parse(text)
    assert str(caught.value) == message
