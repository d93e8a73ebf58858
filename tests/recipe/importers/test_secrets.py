"""Secrets: hidden by their form and by the fields that hold them, and nothing else is."""

from __future__ import annotations

import pytest

from olivebuild.recipe.importers.secrets import FIELD, hide, hide_in_line


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://a.blob.core.windows.net/c/x?sv=1&sig=abc%3D&se=2", "?sv=1&sig=(hidden)&se=2"),
        ("AccountName=a;AccountKey=abc==;End", "AccountName=a;AccountKey=(hidden);End"),
        ("https://me:word@host/x", "https://me:(hidden)@host/x"),
        ("hf_abcdefghijkl", "(hidden)"),
        ("AKIAABCDEFGHIJKLMNOP", "(hidden)"),
        ("eyJhbGciOiJIUzI1NiIsInR5.abc.def", "(hidden)"),
    ],
)
def test_values_of_these_forms_are_hidden(text: str, hidden: str) -> None:
    assert hide(text).endswith(hidden)
    assert "abc" not in hide(text)
    assert "word" not in hide(text)


@pytest.mark.parametrize(
    "text", ["hf:org/model", "hf_config", "https://host:8080/x", "a&signal=1", "key", "sk-1"]
)
def test_other_values_are_shown(text: str) -> None:
    assert hide(text) == text
    assert hide_in_line(f'"model_name": "{text}",') == f'"model_name": "{text}",'


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("token", True),
        ("HF_TOKEN", True),
        ("account_key", True),
        ("sas", True),
        ("max_new_tokens", False),
        ("key", False),
        ("tokenizer", False),
        ("keyvault_name", False),
    ],
)
def test_fields_name_secrets(name: str, is_secret: bool) -> None:
    assert bool(FIELD.search(name)) is is_secret
    line = f'  "{name}": "some \\" word", "b": 1'
    assert ("word" not in hide_in_line(line)) is is_secret
