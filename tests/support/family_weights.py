"""Weights and tokenizers of the families' small models, as their publishers store them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL = (
    "<unk>",
    "<s>",
    "<|endoftext|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<pad>",
)
VOCABULARY = 320
TURN = "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
TEXTS = (
    "a letter from the old dog",
    "our garden by the river",
    "my phone is on the train today",
    "glad about joy, afraid of fear, amazed by surprise",
)


def in_4_bits(model: Any, how: dict[str, Any]) -> Any:
    """As bitsandbytes stores it."""
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    wanted = BitsAndBytesConfig(
        **{
            name: value
            for name, value in how.items()
            if not name.startswith("_") and name != "quant_method"
        }
    )
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        return AutoModelForCausalLM.from_pretrained(
            plain, quantization_config=wanted, dtype=torch.float32, device_map={"": "cpu"}
        )


def make_weights(folder: Path, settings: dict[str, Any], seed: int) -> Any:
    """A model of the folder's configuration with random weights, in float32: so large that what
    attends to what matters, norms and biases too.
    """
    import tempfile

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as plain:
        dump(
            Path(plain, "config.json"),
            {k: v for k, v in settings.items() if k not in ("quantization_config", "auto_map")},
        )
        config = AutoConfig.from_pretrained(plain)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("mamba.A_log", "mamba.D", "mamba.dt_bias")):
                continue
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
                if settings["model_type"] == "olmo2" and "post_" in name:
                    # What these norms let through is added to what goes past the layer.
                    weight.mul_(0.3)
            elif "embed_tokens" in name:
                # The greater they are, the less do layers put their rounding in the place of what
                # they are given.
                weight.normal_()
            elif name.endswith(("conv.conv.weight", "conv1d.weight")):
                weight.normal_(0, 0.5)
            else:
                weight.normal_(0, (1.5 if "lm_head" in name else 0.4) * 64**-0.5)
    model.tie_weights()
    return model.eval()


def write_tokenizer(folder: Path, template: str, *, bos: bool) -> None:
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<pad>",
        "add_bos_token": bos,
    }
    dump(
        folder / "tokenizer_config.json",
        names
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 2048,
            "chat_template": template,
        },
    )


def save_plain(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(
        {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def save_gptq(folder: Path, model: Any) -> None:
    """As AutoGPTQ stores linear layers: random values under its names, which is enough to be told
    apart by.
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for name, weight in model.state_dict().items():
        if weight.ndim != 2 or "proj" not in name:
            tensors[name] = weight.half()
            continue
        rows, columns = weight.shape
        stem = name.removesuffix(".weight")
        tensors[f"{stem}.qweight"] = torch.randint(
            -(2**31), 2**31 - 1, (columns // 8, rows), dtype=torch.int32
        )
        tensors[f"{stem}.qzeros"] = torch.full(
            (columns // 32, rows // 8), 0x77777777, dtype=torch.int32
        )
        tensors[f"{stem}.scales"] = torch.rand(columns // 32, rows).half() * 0.02
        tensors[f"{stem}.g_idx"] = torch.arange(columns, dtype=torch.int32) // 32
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def dump(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
