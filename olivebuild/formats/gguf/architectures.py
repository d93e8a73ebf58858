"""Architectures that GGUF files are written of.

Their names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from pathlib import Path

from olivebuild.core.errors import InputError
from olivebuild.formats.model_config import architecture_of, quantised_by, read_config

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Phi3ForCausalLM": "phi3",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
}
"""Class in config.json -> architecture in the file."""


def check_model(folder: Path) -> str:
    """Return the architecture that a model's GGUF file would have.

    Raises InputError for one that none is written of, and for quantised weights.
    """
    try:
        config = read_config(folder)
    except (OSError, ValueError) as e:
        fact = f"config.json can't be read: {e}"
        hint = "name a base model or a merged one"
        raise InputError(fact, where=str(folder), hint=hint) from None
    name = architecture_of(config)
    if name not in ARCHITECTURES:
        raise InputError(
            f"no GGUF file is written of {name or 'a model that names no architecture'}",
            where=str(folder / "config.json"),
            hint=f"of {', '.join(ARCHITECTURES)} one is",
        )
    if method := quantised_by(config):
        raise InputError(
            f"its weights are quantised already ({method})",
            where=str(folder / "config.json"),
            hint="GGUF is written of full-precision weights",
        )
    return ARCHITECTURES[name]
