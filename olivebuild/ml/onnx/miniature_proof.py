"""Proof on a miniature that an ONNX model computes what transformers computes, up to a length.

The miniature gets random weights. It goes through the same model builder, runs in the same runtime,
and each logit is compared with torch's: at two short lengths, and before, across and beyond each
length where the model changes what it does. A fault there is a fault of every model of the
architecture.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from olivebuild.core.errors import first_line
from olivebuild.core.fs import trees
from olivebuild.ml.onnx.miniature import (
    BEYOND,
    REFUSALS,
    STEPS,
    VOCABULARY,
    Miniature,
    Untried,
    config_from,
)
from olivebuild.ml.onnx.trial import ANY, LIMITS, Difference, Proof, Runner, compare

WRONG = 0.05
"""The difference of a float32 miniature's logits, in units of their spread, that is not rounding.
"""


def prove(
    mini: Miniature,
    scratch: Path,
    build: Callable[[Path, Path], None],
    precision: str,
    dtype: str,
    *,
    exact: bool,
) -> Proof:
    """Make the miniature with weights of `dtype`, build it, and compare.

    `build` takes a folder and one to write to. `exact` compares at all lengths. Raises what `build`
    raises.
    """
    source, built = scratch / "source", scratch / "built"
    trees.delete(scratch.parent, scratch)
    source.mkdir(parents=True)
    built.mkdir()
    try:
        model = _write(mini, source, dtype)
        build(source, built)
        if exact:
            return _lengths(mini, model, built)
        return _judged(mini, model, built, LIMITS[precision])
    except Untried as e:
        return Proof(untried=str(e))
    finally:
        trees.delete(scratch.parent, scratch)


@torch.no_grad()
def _write(mini: Miniature, folder: Path, dtype: str) -> Any:
    """Write the miniature into a folder; return it in float32, holding the same numbers.

    Raises Untried.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    names = ("pad", "bos", "eos")
    words = Tokenizer(
        models.WordLevel({**{f"<{name}>": i for i, name in enumerate(names)}, "a": 3})
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens: dict[str, Any] = {f"{name}_token": f"<{name}>" for name in names}
    PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(folder)
    config = mini.config | {"torch_dtype": dtype, "dtype": dtype}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            auto: Any = AutoModelForCausalLM
            model = auto.from_config(
                config_from(config), dtype=torch.float32, attn_implementation="eager"
            ).eval()
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
                else:
                    parameter.normal_(0 if name.endswith("bias") else float(parameter.mean()), 0.1)
                # What the folder will hold; buffers stay as they are.
                parameter.copy_(parameter.to(getattr(torch, dtype)))
            copy.deepcopy(model).to(getattr(torch, dtype)).save_pretrained(folder)
    except REFUSALS as e:
        raise Untried(f"{type(e).__name__}: {first_line(e, 200)}") from None
    # As it is published, not as this version of transformers would write it.
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return model


class Try:
    """Runs prompts, and a few tokens after each, in transformers and in the runtime."""

    def __init__(self, model: Any, folder: Path, by_length: bool) -> None:
        self._model = model
        self._by_length = by_length
        self._runner = Runner(folder)
        self._random = np.random.default_rng(0)

    def difference(self, prompt: int) -> Difference:
        """Return the difference after a prompt of that length.

        Raises RuntimeError when the runtime fails.
        """
        ids = self._random.integers(4, VOCABULARY, prompt + STEPS).tolist()
        logits = self._runner.logits(ids, prompt)
        expected = _expected(self._model, ids, prompt, self._by_length, len(logits))
        return compare(list(expected), logits)

    def fault(self, prompt: int, limit: Difference) -> str:
        """Return the fault after a prompt of that length, or ""."""
        try:
            return self.difference(prompt).beyond(limit)
        except RuntimeError as e:
            return _failure(e)


def _judged(mini: Miniature, model: Any, folder: Path, limit: Difference) -> Proof:
    """Compare short prompts within a limit."""
    try:
        tries = Try(model, folder, mini.by_length)
    except RuntimeError as e:
        return Proof(wrong=_failure(e))
    return Proof(
        wrong=next(filter(None, (tries.fault(prompt, limit) for prompt in mini.short)), "")
    )


def _failure(error: RuntimeError) -> str:
    return f"onnxruntime-genai fails: {first_line(error)}"


def _lengths(mini: Miniature, model: Any, folder: Path) -> Proof:
    """Compare around all boundaries, beyond what rounding does to short prompts."""
    usual = 0.0
    try:
        tries = Try(model, folder, mini.by_length)
        short = [tries.difference(prompt) for prompt in mini.short]
    except RuntimeError as e:
        return Proof(wrong=_failure(e))
    for difference in short:
        if fault := difference.beyond(Difference(WRONG, WRONG)):
            return Proof(wrong=fault)
        usual = max(usual, difference.spread)
    inexact = usual > LIMITS["fp32"].spread
    # What a constant of the graph is rounded by shows at every length; what comes to it at a
    # boundary is something else.
    limit = Difference(max(LIMITS["fp32"].spread, 4 * usual), ANY)
    for real, length in mini.boundaries:
        if fault := tries.fault(length - STEPS, limit):
            return Proof(max(mini.short) + STEPS, fault, inexact=inexact)
        for prompt in (length - 1, length + BEYOND):
            if fault := tries.fault(prompt, limit):
                return Proof(real, fault, inexact=inexact)
    return Proof(inexact=inexact)


@torch.inference_mode()
def _expected(
    model: Any, ids: list[int], prompt: int, by_length: bool, count: int
) -> Iterator[np.ndarray]:
    """Yield the logits of the last `count` tokens, of the whole text up to each, from torch."""

    def logits(end: int, keep: int) -> np.ndarray:
        out = model(input_ids=torch.tensor([ids[:end]]), use_cache=False, logits_to_keep=keep)
        return np.asarray(out.logits[0, -keep:].float().numpy())

    if not by_length:
        yield from logits(len(ids), count)
        return
    yield from logits(prompt, count - (len(ids) - prompt))
    for end in range(prompt + 1, len(ids) + 1):
        yield from logits(end, 1)
