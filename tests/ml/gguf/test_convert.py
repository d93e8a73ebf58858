"""The process that writes a GGUF file, and what it tells of the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.ml.gguf.convert import convert
from tests.support import gguf_models

CLOCK = "{{ strftime_now('%Y') }}" + gguf_models.CHATML
LIMITED = "import sys; from olivebuild.ml.gguf import convert as c; c.SECONDS = 1; c.main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_models.make("phi3", "gpt-2", tmp_path_factory.mktemp("m") / "phi3")


def converted(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return convert(
        **{"folder": str(folder), "out": str(out), "type": "q8_0", "name": "t"} | changes
    )


def test_what_it_tells(folder: Path, tmp_path: Path) -> None:
    answer = converted(folder, tmp_path / "t.gguf")
    assert answer["architecture"] == "phi3"
    assert (answer["context"], answer["is_limited"]) == (256, False)
    assert answer["ends"] == ["<|im_end|>"]
    assert answer["template"].startswith('{{ range .Messages }}{{ if eq .Role "system" }}<|im_st')
    assert answer["has_system"]
    assert answer["notes"] == []


def test_a_template_of_the_day_is_kept_and_not_turned_into_turns(
    folder: Path, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    template = folder / "chat_template.jinja"
    before = template.read_text("utf-8")
    template.write_text(CLOCK, "utf-8")
    try:
        answer = converted(folder, tmp_path / "t.gguf")
    finally:
        template.write_text(before, "utf-8")
    assert (answer["is_chat"], answer["template"]) == (True, None)
    said = GGUFReader(tmp_path / "t.gguf").fields["tokenizer.chat_template"].contents()
    assert said == CLOCK


def test_code_of_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config["attn_implementation"] = "someone/kernel"
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="compiled code from the hub"):
        converted(other, tmp_path / "t.gguf")


@pytest.mark.slow
def test_a_template_that_does_not_end_is_an_error(folder: Path, tmp_path: Path) -> None:
    loops = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "chat_template.jinja").write_text(loops)
    settings = {"folder": str(other), "out": str(tmp_path / "t.gguf"), "type": "f16", "name": "t"}
    command = [sys.executable, "-c", LIMITED, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, check=False)
    answer = json.loads(done.stdout)
    assert answer["event"] == "error"
    assert "did not end within 1 s" in answer["fact"]
