"""Text generation, from Hugging Face and ONNX folders alike.

Token after token, and the text as soon as it is certain.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from olivebuild.core.errors import Where
from olivebuild.core.fs.small_files import read_bytes
from olivebuild.ml.data.end_tokens import trained_ends
from olivebuild.ml.data.plain_tokenizer import common_prefix
from olivebuild.ml.inference import runtime as _runtime
from olivebuild.ml.inference.onnx_runtime import OnnxRuntime
from olivebuild.ml.inference.runtime import Runtime
from olivebuild.ml.inference.sessions import Logits, open_session
from olivebuild.ml.inference.torch_runtime import HuggingFaceRuntime
from olivebuild.ml.models.load import tokenizer_with
from olivebuild.ml.nn import qlora
from olivebuild.ml.weights import patterns
from olivebuild.ml.weights.adapter_config import QUANTISED, is_of_loftq

Speech = Generator[Logits, int, None]
"""Yields the logits of the next token, and is sent the token that was chosen."""


def open_model(
    folder: str,
    adapter: str,
    *,
    trust_remote_code: bool,
    trust_adapter: bool = False,
    date: str = "",
    where: Where | None = None,
) -> Runtime:
    """Open a model folder, with the adapter in `adapter` unless that is empty.

    `date` is what its chat template is told, and `where` names it in the recipe, for errors.
    """
    runtime = _runtime.open_model(
        folder, trust_remote_code=trust_remote_code, date=date, where=where
    )
    if adapter and isinstance(runtime, OnnxRuntime):
        return runtime.adapted(adapter, date)
    if adapter:
        dress(runtime, adapter, date)
        runtime.ends |= trained_ends(Path(adapter), lambda: runtime.tokenizer)
        from peft import PeftModel

        assert isinstance(runtime, HuggingFaceRuntime)
        patterns.check_adapter(Path(adapter), runtime.model, trust=trust_adapter)
        quantised = Path(adapter, QUANTISED)
        if quantised.is_file() and is_of_loftq(read_bytes(quantised)):
            qlora.dequantise(runtime.model, Path(adapter))
        runtime.model = PeftModel.from_pretrained(runtime.model, adapter).eval()
    return runtime


def dress(runtime: Runtime, adapter: str, date: str) -> None:
    """Take the tokenizer or the chat template that an adapter comes with."""
    runtime.tokenizer = tokenizer_with(runtime.tokenizer, Path(adapter), date)


def tokens(
    source: Speech, ends: set[int], room: int, temperature: float, draw: np.random.Generator
) -> Generator[int, None, None]:
    """The answer's tokens, without the one that ends it."""
    logits = next(source)
    for _ in range(room):
        token = choose(logits, temperature, draw)
        if token in ends:
            return
        yield token
        logits = source.send(token)


def choose(logits: Logits, temperature: float, draw: np.random.Generator) -> int:
    """The likeliest token, or at a temperature above 0 one that is drawn."""
    if temperature <= 0:
        return int(logits.argmax())
    # The greatest of logits with Gumbel noise is a draw from their softmax.
    return int((logits / temperature + draw.gumbel(size=logits.shape)).argmax())


def speech(runtime: Runtime, prompt: list[int], room: int) -> Speech:
    session, added = open_session(runtime, len(prompt) + room + 1), prompt
    while True:
        added = [(yield session.read(added)[-1])]


PART = "\N{REPLACEMENT CHARACTER}"
"""What stands for a part of a character."""


class Decoder:
    """Token after token to text, as soon as it is certain.

    A character may take several, and a word's space shows in context only: `before` are tokens
    that stand before the text.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = list(before)
        self._told = len(self._ids)
        """Tokens whose text was given."""
        self._context = 0
        """From here on tokens are decoded, so that the first that is new has one before it."""

    def add(self, token: int) -> str:
        self._ids.append(token)
        text = self._new()
        return "" if text.endswith(PART) else self._tell(text)

    def peek(self, token: int) -> str:
        """Return the text that a token would add, which is not taken in."""
        return self._new([token])

    def rest(self) -> str:
        return self._tell(self._new())

    def _new(self, more: Sequence[int] = ()) -> str:
        before, now = (
            self._tokenizer.decode(ids, skip_special_tokens=False)
            for ids in (
                self._ids[self._context : self._told],
                [*self._ids[self._context :], *more],
            )
        )
        if before.endswith(PART):
            # Of a character that the next tokens complete.
            return str(now[common_prefix(before, now) :])
        return str(now[len(before) :])

    def _tell(self, text: str) -> str:
        if text:
            self._context, self._told = self._told, len(self._ids)
        return text
