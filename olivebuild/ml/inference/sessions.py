"""Texts that a model reads portion by portion, with the logits after their tokens."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from olivebuild.ml.inference.onnx_runtime import OnnxRuntime, keeps_all
from olivebuild.ml.inference.passes import PASS_LOGITS
from olivebuild.ml.inference.runtime import Runtime
from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime
from olivebuild.ml.nn.reach import keeps_state
from olivebuild.ml.onnx.trial import capacity

BY_LENGTH, BORDER = "phi", 4096
"""Beginning of the types of models for which onnxruntime-genai has LongRoPE, and its border."""
Logits = np.ndarray[Any, Any]
"""float32 [tokens, vocabulary]."""


class Session(Protocol):
    """What a model has read of one text."""

    def read(self, tokens: list[int]) -> Logits:
        """Read more of the text; return the logits [1, vocabulary] after the last token."""

    def read_each(self, tokens: list[int]) -> Logits:
        """Read more of the text; return the logits [tokens, vocabulary] after each token."""

    def portion(self, text: list[int]) -> int:
        """Return how many tokens of a text to read at once where logits of each are wanted."""


def open_session(runtime: Runtime, longest: int) -> Session:
    """Return a session for a text that may come to have `longest` tokens, its answer included."""
    if isinstance(runtime, OnnxRuntime):
        return _OnnxSession(runtime, longest)
    assert isinstance(runtime, HuggingFaceRuntime)
    return _TorchSession(runtime)


def vocabulary_of(runtime: Runtime) -> int:
    """Return how many tokens the model knows: ids are below that."""
    if isinstance(runtime, OnnxRuntime):
        return int(runtime.config["model"]["vocab_size"])
    assert isinstance(runtime, HuggingFaceRuntime)
    return int(runtime.model.config.get_text_config().vocab_size)


def portion_of(runtime: Runtime) -> int:
    """Return how many tokens' logits are held at once."""
    return max(1, PASS_LOGITS // vocabulary_of(runtime))


class _TorchSession:
    def __init__(self, runtime: HuggingFaceRuntime) -> None:
        self._runtime = runtime
        self._cache: Any = None

    def portion(self, text: list[int]) -> int:
        runtime = self._runtime
        # What goes from token to token otherwise than by keys and values is read in one go.
        is_long = bool(runtime.border) and len(text) > runtime.border
        if is_long or keeps_state(runtime.model):
            return max(1, len(text))
        return portion_of(runtime)

    def read(self, tokens: list[int]) -> Logits:
        return self._read(tokens, 1)

    def read_each(self, tokens: list[int]) -> Logits:
        return self._read(tokens, len(tokens))

    @torch.inference_mode()
    def _read(self, tokens: list[int], keep: int) -> Logits:
        out = self._runtime.model(
            input_ids=torch.tensor([tokens], device=self._runtime.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self._cache = out.past_key_values
        return np.asarray(out.logits[0, -keep:].float().cpu().numpy())


class _OnnxSession:
    def __init__(self, runtime: OnnxRuntime, longest: int) -> None:
        self._runtime = runtime
        self._longest = capacity(runtime.config, longest)
        self._generator = runtime.generator(self._longest)
        self._held: list[int] = []
        self._gives_all = True
        """Whether the graph gives the logits of all tokens that it is given at once."""

    def portion(self, text: list[int]) -> int:
        config = self._runtime.config
        # As above. A graph does not say where its positions come to mean something else.
        is_long = str(config["model"]["type"]).startswith(BY_LENGTH) and len(text) > BORDER
        if is_long or not keeps_all(config, len(text)):
            return max(1, len(text))
        return portion_of(self._runtime)

    def read(self, tokens: list[int]) -> Logits:
        self._append(tokens)
        last = np.asarray(self._generator.get_logits(), dtype=np.float32)
        return last.reshape(1, -1)

    def read_each(self, tokens: list[int]) -> Logits:
        if self._gives_all:
            rows = self._append_for_all(tokens)
            if len(rows) == len(tokens):
                return rows
            # Only the last token's came. The others are read again, one by one.
            self._gives_all = False
            held = self._held[: -len(tokens)]
            self._generator, self._held = self._runtime.generator(self._longest), []
            if held:
                self._append(held)
        return np.concatenate([self._append_for_all([token]) for token in tokens])

    def _append(self, tokens: list[int]) -> None:
        self._generator.append_tokens(np.array(tokens, dtype=np.int32))
        self._held += tokens

    def _append_for_all(self, tokens: list[int]) -> Logits:
        self._append(tokens)
        logits: Logits = np.asarray(self._generator.get_output("logits"), dtype=np.float32)
        return np.asarray(logits[0])
