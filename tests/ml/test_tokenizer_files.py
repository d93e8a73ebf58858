"""The files of a tokenizer, and how many tokens it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.ml.models.tokenizer_files import (
    found_in,
    has_tokenizer,
    is_tokenizer_file,
    tokens_of,
)


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("tokenizer.json", True), ("qwen.tiktoken", True), ("sentencepiece.bpe.model", True),
        ("chat_template.jinja", True), ("additional_chat_templates/tool.jinja", True),
        ("merges.txt", True), ("config.json", False), ("sub/tokenizer.json", False),
        ("sub/chat_template.jinja", False), ("model.safetensors", False),
    ],
)  # fmt: skip
def test_the_files_of_a_tokenizer(name: str, belongs: bool) -> None:
    assert is_tokenizer_file(name) == belongs


def test_a_template_alone_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    for name in ("additional_chat_templates/tool.jinja", "chat_template.jinja", "config.json"):
        (tmp_path / name).write_text("")
    names = ["additional_chat_templates/tool.jinja", "chat_template.jinja"]
    assert [name for name, _ in found_in(tmp_path)] == names
    assert not has_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    assert has_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("tokenizer", "count"),
    [
        ({"model": {"vocab": {"a": 0, "b": 7}}}, 8),
        ({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}, 2),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 9}, {"id": 4}]}, 10),
        ({"model": {}, "added_tokens": None}, 0),
    ],
)
def test_there_is_room_for_the_greatest_id(tokenizer: dict[str, Any], count: int) -> None:
    assert tokens_of(tokenizer) == count
