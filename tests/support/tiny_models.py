"""Tiny models with random weights of five architectures, for tests that run the real builder: under
200k parameters each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

COMMON: dict[str, Any] = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
ARCHITECTURES = ("phi3", "llama", "qwen2", "qwen3", "gemma")


def make(
    architecture: str,
    folder: Path,
    tokenizer: Path,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    **changes: Any,
) -> None:
    """Write a model of that architecture; `tokenizer` is a folder to take one from.

    Norms and biases are random, too.
    """
    import shutil

    import torch
    import transformers as t

    configs: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "phi3": (
            t.Phi3Config,
            t.Phi3ForCausalLM,
            {"original_max_position_embeddings": 512, "sliding_window": None},
        ),
        "llama": (t.LlamaConfig, t.LlamaForCausalLM, {"tie_word_embeddings": False}),
        "qwen2": (t.Qwen2Config, t.Qwen2ForCausalLM, {"tie_word_embeddings": True}),
        "qwen3": (
            t.Qwen3Config,
            t.Qwen3ForCausalLM,
            {"tie_word_embeddings": False, "head_dim": 32},
        ),
        "gemma": (
            t.GemmaConfig,
            t.GemmaForCausalLM,
            {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh"},
        ),
    }
    config, model, more = configs[architecture]
    torch.manual_seed(seed)
    network = model(config(**COMMON | more | changes))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(
                    torch.randn_like(parameter) * 0.1 + (0 if name.endswith("bias") else 1)
                )
    network.to(getattr(torch, dtype)).save_pretrained(folder)
    for path in tokenizer.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            shutil.copyfile(path, folder / path.name)


def make_adapter(base: Path, folder: Path, *, seed: int = 0, **options: Any) -> None:
    """Write a LoRA adapter with random weights for a model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **options)
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.05)
    wrapped.save_pretrained(str(folder))
