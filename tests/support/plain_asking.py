"""Questions answered the plain way: each text by itself from its beginning, nothing kept."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from olivebuild.ml.inference.questions import Question

Logits = Callable[[list[int]], np.ndarray]
"""Logits [tokens, vocabulary] after each token of a text, in float64."""


def scores(logits: Logits, question: Question) -> list[float]:
    """Log-likelihoods of the completions, in nats."""
    result = []
    for completion in question.completions:
        ids = [*question.prompt, *completion]
        # With its last token, as training reads it: lengths may decide what positions mean.
        at = logits(ids)[len(question.prompt) - 1 : -1]
        shifted = at - at.max(-1, keepdims=True)
        shares = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        result.append(float(shares[np.arange(len(completion)), completion].sum()))
    return result


def written(
    logits: Logits, question: Question, new_tokens: int, ends: Collection[int]
) -> tuple[list[int], float]:
    """The greedy answer, and the least lead of a likeliest token over the second."""
    answer: list[int] = []
    lead = float("inf")
    while len(answer) < new_tokens:
        last = logits([*question.prompt, *answer])[-1]
        second, first = np.sort(last)[-2:]
        lead = min(lead, float(first - second))
        if (token := int(last.argmax())) in ends:
            break
        answer.append(token)
    return answer, lead


def of_torch(model: Any) -> Logits:
    def logits(ids: list[int]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            out = model(input_ids=torch.tensor([ids]), use_cache=False)
        return np.asarray(out.logits[0].double().numpy())

    return logits


def of_genai(folder: Path, *, at_once: bool = False) -> Logits:
    """A generator of its own for each text, which it is given token by token, or whole.

    Lengths may decide what positions mean: then a text is read as it comes, prompt and answer.
    """
    import onnxruntime_genai as og

    model = og.Model(str(folder))

    def logits(ids: list[int]) -> np.ndarray:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + 1, do_sample=False)
        generator = og.Generator(model, params)
        if at_once:
            generator.append_tokens(np.array(ids, np.int32))
            return np.asarray(generator.get_output("logits"), np.float64).reshape(len(ids), -1)
        rows = []
        for token in ids:
            generator.append_tokens(np.array([token], np.int32))
            rows.append(np.asarray(generator.get_logits(), np.float64).reshape(-1))
        return np.stack(rows)

    return logits
