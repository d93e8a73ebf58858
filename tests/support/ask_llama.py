"""Asks llama.cpp what it makes of a GGUF file; its answers are JSON.

Run by an interpreter that has llama-cpp-python, which needs none of ours.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import numpy as np


def main() -> None:
    import llama_cpp
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    asked: dict[str, Any] = json.load(sys.stdin)
    if asked.get("widen"):
        widen(llama_cpp, asked["file"], asked["widen"])
        asked["file"] = asked["widen"]
    model = llama_cpp.Llama(
        model_path=asked["file"],
        n_ctx=asked.get("context", 0),
        logits_all=False,
        verbose=False,
        n_threads=1,
        n_threads_batch=1,
        type_k=0,
        type_v=0,
        flash_attn=False,
        swa_full=True,
    )
    answer: dict[str, Any] = {
        "tokens": [
            model.tokenize(text.encode(), add_bos=begins, special=True)
            for text, begins in asked.get("texts", [])
        ],
        "metadata": {
            k: v for k, v in model.metadata.items() if not k.endswith(("tokens", "merges"))
        },
        "pieces": [
            model.detokenize(ids, special=True).decode("utf-8", "replace")
            for ids in asked.get("pieces", [])
        ],
    }
    if template := model.metadata.get("tokenizer.chat_template"):
        format_ = Jinja2ChatFormatter(template=template, eos_token="</s>", bos_token="<s>")
        answer["rendered"] = [format_(messages=talk).prompt for talk in asked.get("talks", [])]
    answer["greedy"] = [greedy(model, prompt, asked["new"]) for prompt in asked.get("prompts", [])]
    json.dump(answer, sys.stdout)


def greedy(model: Any, prompt: list[int], new: int) -> list[int]:
    """Return the likeliest tokens after a prompt; what ends an answer does not end it."""
    model.reset()
    model.eval(prompt)
    tokens: list[int] = []
    size = model.n_vocab()
    for _ in range(new):
        pointer = model._ctx.get_logits()
        logits = np.ctypeslib.as_array(pointer, shape=(size,))
        tokens.append(int(logits.argmax()))
        model.eval(tokens[-1:])
    return tokens


def widen(llama_cpp: Any, file: str, out: str) -> None:
    """Write the file's weights as llama.cpp dequantises them, in float32."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.allow_requantize = True
    parameters.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    parameters.nthread = 1
    code = llama_cpp.llama_model_quantize(file.encode(), out.encode(), ctypes.byref(parameters))
    if code:
        raise SystemExit(f"llama_model_quantize: {code}")


if __name__ == "__main__":
    main()
