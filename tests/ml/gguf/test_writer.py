"""GGUF files, read back by transformers, which has a reader of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.formats.gguf.architectures import check_model
from olivebuild.ml.gguf import writer
from tests.support import gguf_models

IDS = [[1, 20, 300, 41, 7, 250, 99, 33, 280]]


def read(folder: Path, **changes: Any) -> writer.Model:
    """Return a model to write."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    fields: dict[str, Any] = {
        "name": "tiny",
        "folder": folder,
        "architecture": check_model(folder),
        "config": AutoConfig.from_pretrained(folder),
        "tokenizer": tokenizer,
        "template": tokenizer.chat_template,
        "ends": (5,),
        "begins_special": True,
    }
    return writer.Model(**fields | changes)


def logits(folder: Path, **where: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32, **where).eval()
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits


@pytest.mark.parametrize(("name", "style"), [("llama", "llama-bpe"), ("qwen2", "qwen2")])
def test_transformers_reads_the_same_model(tmp_path: Path, name: str, style: str) -> None:
    folder = gguf_models.make(name, style, tmp_path / "model")
    out = tmp_path / "tiny.gguf"
    written = writer.write(read(folder), "f16", out)
    assert (written.context, written.begins) == (256, style == "llama-bpe")
    assert sum(size for _, size in written.runs) == out.stat().st_size
    offset = 0
    for digest, size in written.runs:
        assert hashing.of_range(out, offset, size)[0] == digest
        offset += size
    difference = (logits(tmp_path, gguf_file="tiny.gguf") - logits(folder)).abs().max()
    assert difference < 1e-3
    # The same again is the same.
    writer.write(read(folder), "f16", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == out.read_bytes()


def test_what_a_header_says(tmp_path: Path) -> None:
    from gguf import GGUFReader

    folder = gguf_models.make("qwen2", "gpt-2", tmp_path / "model")
    written = writer.write(read(folder, ends=(4, 3, 2, 5)), "q4_0", tmp_path / "tiny.gguf")
    reader = GGUFReader(tmp_path / "tiny.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.name"] == "tiny"
    assert said["qwen2.attention.head_count_kv"] == 2
    assert said["tokenizer.chat_template"] == gguf_models.CHATML
    # The tokenizer's own end goes first, and a fourth one has no place.
    ends = [said[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
    assert ends == [5, 4, 3]
    assert written.notes[-1].endswith("left out: </s>")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.1.ffn_down.weight"] == "Q4_0"
    assert types["blk.1.attn_q.bias"] == types["output_norm.weight"] == "F32"


@pytest.mark.parametrize(
    ("name", "strips", "told"),
    [
        ("tone", False, "tone"),
        ("tone", True, "tone (Phi-3)"),
        ("phi3-tone", False, "phi 3-tone"),
        ("Phi-3-tone", True, "Phi-3-tone"),
    ],
)
def test_names_at_which_llama_cpp_takes_blanks_away(name: str, strips: bool, told: str) -> None:
    assert writer.name_for(name, strips=strips) == told


def test_an_embedding_that_is_too_small_is_said(tmp_path: Path) -> None:
    folder = gguf_models.make("llama", "gpt-2", tmp_path / "model", vocab_size=400)
    with pytest.raises(InputError, match="of 400 rows has none for"):
        writer.write(read(folder), "f16", tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()
