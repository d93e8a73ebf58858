"""What llama.cpp makes of GGUF files, beside transformers: tokens, chat templates, answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from olivebuild.ml.gguf.convert import convert
from tests.support import gguf_models, gguf_weights, llama
from tests.support.require import require

pytestmark = [pytest.mark.slow, pytest.mark.scenario]
STYLES = {
    "llama": "prepend", "llama3": "llama-bpe", "llama-biased": "smollm", "mistral": "first",
    "qwen2": "qwen2", "qwen3": "qwen2", "qwen3-yarn": "gpt-2", "phi3": "phi-3",
    "phi3-long": "gpt-4o", "gemma": "never", "gemma2": "never", "gemma3": "dbrx",
}  # fmt: skip
TEXTS = (
    *gguf_models.TEXTS,
    "Hello  world\n\n\n  x = 3333 isn't",
    "  leading", "trail  ", "", "...!!??", "\t\ta\r\nb", "한국어 🚀🚀", "I'M 12 they'LL",
    "<|im_start|>user\nhi <tool> there<|im_end|>\n", "a<|im_end|> b", "ÄÖ ß é ﷽ 你好",
)  # fmt: skip
TALKS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "hi"}],
    [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "u 1"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b\n"},
    ],
]
TIE = 1e-3
"""Logits within which it does not matter which token is taken."""


def prompts_for(size: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(size) for _ in range(draw.randrange(3, 40))] for _ in range(50)]


@pytest.fixture(scope="module", autouse=True)
def _llama_cpp() -> None:
    require("llama_cpp", llama.interpreter(), f"{llama.VARIABLE} names none")


@pytest.mark.parametrize("name", gguf_models.MODELS)
def test_answers_are_those_of_the_weights(tmp_path: Path, name: str) -> None:
    """In float32 they are the merged model's (F16), and those of torch with the file's weights.

    As it runs such files by itself, llama.cpp rounds what goes into matrices to the file's type.
    """
    from transformers import AutoTokenizer

    folder = gguf_models.make(name, STYLES[name], tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    prompts = prompts_for(len(tokenizer))
    asked: dict[str, Any] = {"prompts": prompts, "new": 32, "context": 256}
    for kind in ("f16", "q8_0", "q4_0"):
        file = tmp_path / f"{kind}.gguf"
        convert(str(folder), str(file), kind, "tiny")
        wide = llama.ask(file, widen=str(tmp_path / "wide.gguf"), **asked)
        model = gguf_weights.load(folder, None if kind == "f16" else file)
        gaps = gguf_weights.gaps(model, prompts, wide["greedy"])
        assert len(gaps) == 1600
        assert max(gaps) <= TIE, (name, kind)
        narrow = gguf_weights.gaps(model, prompts, llama.ask(file, **asked)["greedy"])
        assert sum(gap <= TIE for gap in narrow) > 1600 * (0.99 if kind == "f16" else 0.9)


@pytest.mark.parametrize("style", [*gguf_models.BYTE_LEVEL, *gguf_models.PIECES])
def test_tokens_and_chat_templates_agree(tmp_path: Path, style: str) -> None:
    from transformers import AutoTokenizer

    folder = gguf_models.make("llama", style, tmp_path / "model")
    file = tmp_path / "tiny.gguf"
    notes = convert(str(folder), str(file), "q8_0", "tiny")["notes"]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    begins = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    chats = [
        tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        for talk in TALKS
    ]
    texts = [text for text in TEXTS if _agrees(style, text)]
    answer = llama.ask(file, texts=[[t, begins] for t in (*texts, *chats)], talks=TALKS)
    assert answer["rendered"] == chats
    for text, ids in zip((*texts, *chats), answer["tokens"], strict=True):
        assert ids == tokenizer(text)["input_ids"], text
    # What does not agree is said.
    assert bool(notes) == (style in ("qwen2", "gpt-4o", "always", "first"))


def _agrees(style: str, text: str) -> bool:
    if style == "first":
        # Its chat template begins with a special token, so that no text gets a blank.
        return text.startswith(("<|", " ")) or not text
    return style != "always" or not (text.startswith(" ") or "> " in text)
