"""Weights of a GGUF file, dequantised into a model of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(folder: Path, file: Path | None) -> Any:
    """Return the folder's model in float32, with the file's weights in the place of its own."""
    import numpy as np
    import torch
    from gguf import GGUFReader, quants
    from transformers import AutoConfig, AutoModelForCausalLM

    from olivebuild.formats.gguf import architectures
    from olivebuild.ml.gguf.tensors import Tensors

    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if file is None:
        return model.eval()
    config = AutoConfig.from_pretrained(folder)
    architecture = architectures.check_model(folder)
    names = {
        placed.name: placed.tensor.name
        for placed in Tensors(folder, architecture, config, "f16").placed
    }
    weights = dict(model.named_parameters())
    for tensor in GGUFReader(file).tensors:
        if tensor.name.startswith("rope_"):
            continue
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        if architecture == "llama" and (".attn_q." in tensor.name or ".attn_k." in tensor.name):
            of_keys = ".attn_k." in tensor.name
            heads = config.num_key_value_heads if of_keys else config.num_attention_heads
            shape = (heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
            values = values.reshape(shape).swapaxes(1, 2).reshape(values.shape)
        if architecture.startswith("gemma") and tensor.name.endswith("norm.weight"):
            values = values - np.float32(1)
        with torch.no_grad():
            weights[names[tensor.name]].copy_(torch.from_numpy(np.array(values)))
    return model.eval()


def gaps(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
    """Return for each token of the answers by how much another one was likelier, in logits."""
    import torch

    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        of_answer = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        found += (logits.max(1).values - of_answer).tolist()
    return found
