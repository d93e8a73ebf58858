"""Tiny models with random weights, with tokenizers that split texts as those of families do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS = (
    "A letter from the old dog, who wasn't there in 1999.\n\nOur garden by the river: 3 cats!",
    "My phone is on the train today  and   nobody'll find it; über große Straßen, привет мир.",
    "def f(x):\n    return x + 12345  # 你好世界 🚀\n",
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 5,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "high_freq_factor": 4.0,
    "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0,
    "short_factor": [1.0 + k / 20 for k in range(6)], "long_factor": [2.0 + k for k in range(6)],
    "partial_rotary_factor": 0.75, "original_max_position_embeddings": 256,
}  # fmt: skip
GEMMA = {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama3": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama-biased": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    "qwen3-yarn": ("Qwen3", {"head_dim": 32, "rope_parameters": YARN}),
    "phi3": ("Phi3", {"original_max_position_embeddings": 256, "sliding_window": None}),
    "phi3-long": (
        "Phi3",
        {
            "original_max_position_embeddings": 256,
            "max_position_embeddings": 512,
            "sliding_window": None,
            "rope_parameters": LONGROPE,
        },
    ),
    "gemma": ("Gemma", GEMMA),
    "gemma2": (
        "Gemma2",
        GEMMA
        | {
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        GEMMA | {"query_pre_attn_scalar": 32, "sliding_window": 16, "num_hidden_layers": 6},
    ),
}
"""Name -> (beginning of its classes, what its configuration has beside `SHAPE`)."""
BYTE_LEVEL = ("gpt-2", "smollm", "qwen2", "llama-bpe", "dbrx", "gpt-4o")
PIECES = ("prepend", "never", "first", "always", "phi-3")


def make(name: str, style: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a model of `MODELS` with a tokenizer of `BYTE_LEVEL` or `PIECES`."""
    import torch
    import transformers as t

    size = write_tokenizer(style, folder)
    prefix, more = MODELS[name]
    # Rows of the embedding that no token has, as models are published.
    shape = SHAPE | {"vocab_size": size + 3} | more | changes
    config = getattr(t, f"{prefix}Config")(**shape)
    torch.manual_seed(seed)
    network = getattr(t, f"{prefix.removesuffix('Text')}ForCausalLM")(config)
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                # The smaller an embedding, the less does a tied one repeat what it is given.
                wide = 0.3 if "embed" in parameter_name else 2.0
                parameter.normal_(0, wide * parameter.shape[-1] ** -0.5)
    network.to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_tokenizer(style: str, folder: Path, template: str = CHATML) -> int:
    """Write a tokenizer, and return how many tokens it has."""
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level(style) if style in BYTE_LEVEL else pieces(style)
    if style in ("llama-bpe", "prepend", "first", "phi-3"):
        from tokenizers import processors

        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    fast.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def byte_level(style: str) -> Any:
    """Return a byte-level tokenizer that splits texts in that style."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre

    from olivebuild.ml.gguf import splitting

    def by(pattern: str) -> Any:
        return pre.Sequence(
            [pre.Split(Regex(pattern), "isolated"), pre.ByteLevel(False, use_regex=False)]
        )

    splits: dict[str, Any] = {
        "gpt-2": pre.ByteLevel(False),
        "smollm": pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(False)]),
        "qwen2": by(splitting.QWEN2),
        "llama-bpe": by(splitting.CL100K),
        "dbrx": by(splitting.CL100K),
        "gpt-4o": by(splitting.O200K),
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=style == "llama-bpe"))
    tokenizer.pre_tokenizer = splits[style]
    tokenizer.decoder = decoders.ByteLevel()
    if style == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=440,
        special_tokens=special,
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def pieces(style: str) -> Any:
    """Return a tokenizer in the manner of SentencePiece that puts blanks in that style.

    Each way to put a piece together is a merge, ordered by the piece, as converters of
    SentencePiece's models write them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre

    mark = "\N{LOWER ONE EIGHTH BLOCK}"
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=260, show_progress=False)
    trained.train_from_iterator(TEXTS, trainer)
    found = json.loads(trained.to_str())["model"]
    wholes = [left + right for left, right in found["merges"]]
    texts = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *wholes]
    texts += sorted(t for t in found["vocab"] if len(t) == 1)
    vocabulary = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    merges = [
        (whole[:i], whole[i:])
        for whole in dict.fromkeys(wholes)
        for i in range(1, len(whole))
        if whole[:i] in vocabulary and whole[i:] in vocabulary
    ]
    model = models.BPE(
        vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    if style in ("prepend", "phi-3"):
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(mark), normalizers.Replace(" ", mark)]
        )
    elif style == "never":
        tokenizer.normalizer = normalizers.Replace(" ", mark)
        tokenizer.pre_tokenizer = pre.Split(" ", "merged_with_previous")
    else:
        tokenizer.pre_tokenizer = pre.Metaspace(mark, style, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    kept = ("<unk>", "<s>", "<|endoftext|>")
    tokenizer.add_special_tokens(
        [
            AddedToken(
                text, special=True, normalized=False, rstrip=style == "phi-3" and text not in kept
            )
            for text in SPECIAL
        ]
    )
    if style != "phi-3":
        tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer
