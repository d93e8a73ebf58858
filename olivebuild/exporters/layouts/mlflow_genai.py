"""Loader of an MLflow model that onnxruntime-genai runs: prompts in, generated texts out.

A copy of this file lies in the model itself, and needs no olivebuild.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NEW_TOKENS = 128
"""Most tokens of an answer where `params` says nothing else."""


class GenaiModel:
    """The model of a folder; its answers are greedy."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai

        self._genai = onnxruntime_genai
        self._model = onnxruntime_genai.Model(str(folder))
        self._tokenizer = onnxruntime_genai.Tokenizer(self._model)
        config = json.loads((folder / "genai_config.json").read_text("utf-8"))
        self._longest = int(config["model"]["context_length"])

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Return an answer for each prompt: texts, or a table with a column `prompt`."""
        new_tokens = int((params or {}).get("max_new_tokens", NEW_TOKENS))
        return [self._answer(prompt, new_tokens) for prompt in _prompts(model_input)]

    def _answer(self, prompt: str, new_tokens: int) -> str:
        tokens = self._tokenizer.encode(prompt)
        if len(tokens) >= self._longest:
            raise ValueError(f"the prompt has {len(tokens)} tokens of {self._longest} at most")
        options = self._genai.GeneratorParams(self._model)
        longest = min(len(tokens) + new_tokens, self._longest)
        options.set_search_options(max_length=longest, do_sample=False)
        generator = self._genai.Generator(self._model, options)
        generator.append_tokens(tokens)
        while not generator.is_done():
            generator.generate_next_token()
        answer: str = self._tokenizer.decode(generator.get_sequence(0)[len(tokens) :])
        return answer


def _prompts(model_input: Any) -> list[str]:
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "columns") or isinstance(model_input, dict):
        model_input = model_input["prompt"]
    return [str(prompt) for prompt in model_input]


def _load_pyfunc(data_path: str) -> GenaiModel:
    """Return the model: what MLflow calls."""
    return GenaiModel(Path(data_path))
