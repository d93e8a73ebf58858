"""Which models GGUF files are written of, told from config.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.formats.gguf.architectures import check_model


def written(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("LlamaForCausalLM", "llama"), ("Phi3ForCausalLM", "phi3"), ("Gemma3ForCausalLM", "gemma3")],
)
def test_architectures_have_names_in_the_file(tmp_path: Path, name: str, architecture: str) -> None:
    assert check_model(written(tmp_path, architectures=[name])) == architecture


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        ({"architectures": ["OlmoForCausalLM"]}, "no GGUF file is written of OlmoForCausalLM"),
        ({}, "no GGUF file is written of a model that names no architecture"),
        (
            {
                "architectures": ["LlamaForCausalLM"],
                "quantization_config": {"quant_method": "gptq"},
            },
            "quantised already (gptq)",
        ),
    ],
)
def test_others_are_refused_by_name(tmp_path: Path, config: dict[str, Any], fact: str) -> None:
    with pytest.raises(InputError) as caught:
        check_model(written(tmp_path, **config))
    assert fact in caught.value.fact
    assert "config.json" in str(caught.value.where)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json can't be read"):
        check_model(tmp_path)
