"""What a file or a folder is that was named as a model and is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.formats.not_a_model import BEGINNING, file_like, folder_like, head_of, weights_like
from olivebuild.formats.not_a_model import without_weights as why_none


@pytest.mark.parametrize(
    ("head", "fact"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><p>", "it is a web page"),
        (b"<?xml version='1.0'?>", "it is a web page"),
    ],
)
def test_a_file_is_known_by_its_first_bytes(head: bytes, fact: str) -> None:
    told = file_like(head)
    assert told
    assert told[0].startswith(fact)
    assert weights_like(head) == told


@pytest.mark.parametrize(
    ("head", "fact"),
    [
        (b"GGUF\3\0", "it is a GGUF file"),
        (b"PK\3\4", "it is pickled weights"),
        (b"\x80\x02}", "it is pickled weights"),
        (b' {"error": 404}', "it is JSON text"),
    ],
)
def test_a_file_that_should_be_safetensors(head: bytes, fact: str) -> None:
    told = weights_like(head)
    assert told
    assert told[0].startswith(fact)
    assert file_like(head) is None


def test_safetensors_are_what_they_should_be(tmp_path: Path) -> None:
    assert weights_like(b"\x40\0\0\0\0\0\0\0" + b'{"a":') is None
    (tmp_path / "long").write_bytes(b"x" * 2 * BEGINNING)
    assert head_of(tmp_path / "long") == b"x" * BEGINNING


@pytest.mark.parametrize(
    ("names", "fact", "hint"),
    [
        (["adapter_config.json"], "it is an adapter, of own/base, not a model", "kind adapter"),
        (["model_index.json"], "it is a pipeline of several models", "one model"),
        (["b.gguf", "a.gguf"], "it has GGUF files alone", "gguf:a.gguf"),
        (["model.onnx"], "it is an ONNX model", "kind onnx"),
        (["params.json"], "its model is in the format of its makers", "model.safetensors"),
        (["snapshots/x/config.json"], "config.json is missing", "snapshots/x/ in it has one"),
        (["README.md"], "config.json is missing", "name the folder that holds config.json"),
    ],
)
def test_a_folder_is_known_by_the_names_in_it(
    tmp_path: Path, names: list[str], fact: str, hint: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"base_model_name_or_path": "own/base"}))
    told = folder_like(tmp_path)
    assert told[0].startswith(fact)
    assert hint in told[1]


@pytest.mark.parametrize(
    ("names", "fact"),
    [
        (["adapter_model.safetensors"], "no weights but an adapter's"),
        (["consolidated.00.safetensors"], "only consolidated.00.safetensors"),
        (["weights.safetensors"], "no model.safetensors and no index of shards"),
        (["m.gguf"], "no weights but GGUF (m.gguf)"),
        (["pytorch_model.bin"], "only pickled weights (pytorch_model.bin)"),
        (["config.json"], "no weights in the model folder"),
    ],
)
def test_a_folder_without_weights_that_are_read(names: list[str], fact: str) -> None:
    assert why_none(names)[0].startswith(fact)
