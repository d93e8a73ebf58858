"""The folder with a GGUF file and a Modelfile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.exporters import manifest
from olivebuild.exporters.layouts import gguf
from tests.conftest import Place
from tests.support import gguf_models

RECIPE = "targets:\n  base: {kind: model, source: tiny}\n"
ANSWER: dict[str, Any] = {
    "template": "<|user|>{{ .Prompt }}",
    "is_chat": True,
    "has_system": True,
    "ends": ["<|end|>", 'a "b"'],
    "is_limited": False,
    "context": 100,
}


def test_an_export(place: Place, tmp_path: Path) -> None:
    gguf_models.make("qwen2", "gpt-2", place.folder / "tiny")
    place.recipe.write_text(RECIPE)
    assert place.run("build", "base").code == 0
    done = place.run("export", "base", "../out", "--format", "gguf", "--quantization", "q4_0")
    assert done.code == 0, done.err
    assert "note: figures on the card are those of base as it was built" in done.err
    out = tmp_path / "out"
    contents = manifest.read(out)
    (file,) = (f for f in contents.files if f.name.endswith("-base-Q4_0.gguf"))
    assert sum(size for _, size in file.runs) == file.size
    assert len(file.runs) == 1 + 26
    modelfile = (out / "Modelfile").read_text("utf-8")
    assert modelfile.startswith(f'FROM ./{file.name}\nTEMPLATE """')
    assert 'PARAMETER stop "<|im_end|>"\n' in modelfile
    card = (out / "README.md").read_text("utf-8")
    assert 'library_name: "gguf"' in card
    assert "its matrices in Q4_0 (in Q8_0 what scores the tokens)." in card


def test_what_is_refused(place: Place) -> None:
    folder = place.folder / "tiny"
    gguf_models.make("qwen2", "gpt-2", folder)
    place.recipe.write_text(RECIPE)
    config = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").write_text(config.replace("Qwen2ForCausalLM", "OlmoForCausalLM"))
    assert place.run("build", "base").code == 0
    done = place.run("export", "base", "../out", "--format", "gguf")
    assert done.code != 0
    assert "no GGUF file is written of OlmoForCausalLM" in done.err
    done = place.run("export", "base", "../out", "--quantization", "f16")
    assert "--quantization is for --format gguf" in done.err
    assert not (place.folder.parent / "out").exists()


@pytest.mark.parametrize(
    ("changes", "lines", "missing"),
    [
        ({}, ['TEMPLATE """<|user|>{{ .Prompt }}"""', 'PARAMETER stop "a \\"b\\""'], ""),
        ({"is_limited": True}, ["PARAMETER num_ctx 100"], ""),
        ({"template": None}, ["FROM ./m.gguf"], "more than turns"),
        ({"template": None, "is_chat": False}, ["FROM ./m.gguf"], "has no chat template"),
        ({"has_system": False}, ["PARAMETER temperature 0"], "leaves system messages out"),
    ],
)
def test_modelfiles(changes: dict[str, Any], lines: list[str], missing: str) -> None:
    text, said = gguf._modelfile("m.gguf", ANSWER | changes)
    assert set(lines) <= set(text.splitlines())
    assert missing in said
    assert bool(missing) == bool(said)
    assert ("TEMPLATE" in text) == ("template" not in changes)
