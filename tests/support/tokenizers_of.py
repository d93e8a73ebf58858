"""Tokenizers in the styles of families that people fine-tune: with a beginning of texts and without
one, padding of its own or the end token, byte level or marked blanks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXTS = ("a letter from the old dog", "our garden by the river", "my phone is on the train today")
STYLES: dict[str, dict[str, Any]] = {
    # Phi-3: padding is the end token.
    "phi": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    # Qwen: texts have no beginning.
    "qwen": {"eos_token": "<|end|>", "pad_token": "<pad>"},
    # Llama: the tokenizer begins texts itself, and has no padding.
    "llama": {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
    # Mistral and Gemma: blanks are marked.
    "marked": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<pad>"},
}
SPECIAL = ["<unk>", "<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<pad>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write(style: str, folder: Path) -> None:
    """Write a tokenizer of under 400 tokens into a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    marked = style == "marked"
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Metaspace() if marked else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    tokenizer.decoder = decoders.Metaspace() if marked else decoders.ByteLevel()
    alphabet = list("\n0123456789NIS") if marked else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if style == "llama":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    names = {"unk_token": "<unk>"} | STYLES[style]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, **names)
    fast.save_pretrained(folder)
