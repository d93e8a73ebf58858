"""llama.cpp's names for how tokenizers split and prepare texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olivebuild.ml.gguf import splitting
from tests.support import gguf_models

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
WORDS = BYTES | {"use_regex": True}
MARK = splitting.BLANK
PREPEND = {"type": "Prepend", "prepend": MARK}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}


def by(pattern: str, **changes: Any) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return {"type": "Sequence", "pretokenizers": [split | {"invert": False} | changes, BYTES]}


@pytest.mark.parametrize("style", gguf_models.BYTE_LEVEL)
def test_styles_have_names(style: str) -> None:
    data = json.loads(gguf_models.byte_level(style).to_str())
    assert splitting.name_of(data, ignores=style == "llama-bpe") == style
    other = splitting.name_of(data, ignores=style != "llama-bpe")
    assert other == {"dbrx": "llama-bpe", "llama-bpe": "dbrx"}.get(style)


@pytest.mark.parametrize(
    "splitter",
    [
        None,
        by("[a-z]+"),
        by(splitting.QWEN2, invert=True),
        by(splitting.QWEN2, behavior="Removed"),
        WORDS | {"add_prefix_space": True},
        {"type": "Whitespace"},
        {"type": "Sequence", "pretokenizers": [WORDS, {"type": "Digits", "individual_digits": 1}]},
        {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, WORDS]},
    ],
)
def test_what_llama_cpp_does_not_do_has_no_name(splitter: dict[str, Any] | None) -> None:
    assert splitting.name_of({"pre_tokenizer": splitter}, ignores=False) is None


def test_normalisers_other_than_nfc_have_no_name() -> None:
    for kind, name in (("NFC", "gpt-2"), ("NFKC", None), ("Lowercase", None)):
        data = {"pre_tokenizer": WORDS, "normalizer": {"type": kind}}
        assert splitting.name_of(data, ignores=False) == name
    assert "NFC" in next(splitting.notes_on({"normalizer": {"type": "NFC"}, "pre_tokenizer": {}}))


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


@pytest.mark.parametrize(
    ("normalizer", "splitter", "blank"),
    [
        (sequence(PREPEND, REPLACE), None, "prepend"),
        (REPLACE, None, "never"),
        (REPLACE, {"type": "Split", "pattern": {"String": " "}}, "never"),
        (REPLACE, {"type": "Digits"}, None),
        (sequence(REPLACE, PREPEND), None, None),
        (sequence(PREPEND), None, None),
        (sequence(PREPEND, REPLACE, {"type": "Lowercase"}), None, None),
        (None, {"type": "Metaspace", "replacement": MARK, "split": False}, "always"),
        (None, {"type": "Metaspace", "replacement": MARK, "split": True}, None),
        (None, {"type": "Metaspace", "replacement": "_", "split": False}, None),
        (REPLACE, {"type": "Metaspace", "replacement": MARK, "split": False}, None),
        (None, None, None),
    ],
)
def test_blanks(
    normalizer: dict[str, Any] | None, splitter: dict[str, Any] | None, blank: str | None
) -> None:
    data = {"normalizer": normalizer, "pre_tokenizer": splitter}
    assert splitting.blank_of(data) == blank


def test_the_alphabet_is_that_of_the_library() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(splitting.alphabet()) == set(ByteLevel.alphabet())
    assert sorted(splitting.alphabet().values()) == list(range(256))
    assert splitting.alphabet()["Ġ"] == ord(" ")


def test_bytes_that_no_text_has_need_no_token() -> None:
    characters = {byte: text for text, byte in splitting.alphabet().items()}
    lacking = {characters[byte] for byte in (0xC0, 0xFF, 0x01)}
    assert splitting.bytes_without(set(splitting.alphabet()) - lacking) == [0x01]
