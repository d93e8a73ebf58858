"""How tokenizers split and prepare texts, and llama.cpp's names for it.

A name stands for regular expressions and settings in llama.cpp's `llm_tokenizer_bpe` and
`llama_vocab::impl::load` (src/llama-vocab.cpp). Tokenizers are compared by what they do, not by
whose they are.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS, GPT2 = "one digit", "gpt-2"
NAMES = {
    ((GPT2,), False): "gpt-2",
    ((DIGITS, GPT2), False): "smollm",
    ((QWEN2,), False): "qwen2",
    ((CL100K,), True): "llama-bpe",
    ((CL100K,), False): "dbrx",
    ((O200K,), False): "gpt-4o",
}
"""(what texts are split by, whether whole words need no merges) -> llama.cpp's name."""
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
NOT_IN_TEXTS = {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes that UTF-8 never has."""
Settings = dict[str, Any]


def name_of(tokenizer: Settings, *, ignores: bool) -> str | None:
    """Return llama.cpp's name for how a byte-level tokenizer splits texts; None without one.

    `tokenizer`: a tokenizer.json; `ignores`: whole words need no merges.
    """
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and not _is_nfc(normalizer):
        return None
    steps = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    splits: list[str] = []
    is_byte_level = False
    for step in steps:
        split = _split(step)
        if split is None or is_byte_level:
            return None
        if step["type"] == "ByteLevel":
            is_byte_level = True
        splits += [split] if split else []
    return NAMES.get((tuple(splits), ignores)) if is_byte_level else None


def _steps(setting: Settings | None, inner: str) -> list[Settings]:
    """Return the steps of a normaliser or a splitter, in order."""
    if setting is None:
        return []
    if setting["type"] != "Sequence":
        return [setting]
    return [one for step in setting[inner] for one in _steps(step, inner)]


def _split(step: Settings) -> str | None:
    """Return what a step splits by, "" for nothing; None where llama.cpp has no such step."""
    kind = step["type"]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return GPT2 if step.get("use_regex", True) else ""
    if kind == "Digits" and step.get("individual_digits"):
        return DIGITS
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step["pattern"].get("Regex")
        return pattern if isinstance(pattern, str) else None
    return None


def _is_nfc(normalizer: Settings) -> bool:
    return [step["type"] for step in _steps(normalizer, "normalizers")] in ([], ["NFC"])


def notes_on(tokenizer: Settings) -> Iterator[str]:
    """Yield what llama.cpp does otherwise with texts for a byte-level tokenizer."""
    if _steps(tokenizer.get("normalizer"), "normalizers"):
        yield (
            "llama.cpp does not bring texts into Unicode's NFC form as the tokenizer does: letters "
            "whose accents are characters of their own become other tokens"
        )
    splits = [_split(step) for step in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")]
    if O200K in splits:
        yield (
            "llama.cpp tells capital letters from small ones in ASCII alone: words of other "
            "alphabets that mix both may become other tokens"
        )


def blank_of(tokenizer: Settings) -> str | None:
    """Return where a tokenizer in the manner of SentencePiece puts a blank of its own.

    `prepend`: before a text, and behind each special token, as llama.cpp can. `always`: there, too,
    unless there is one. `first`: before a text alone. `never`. None where it prepares texts
    otherwise.
    """
    blank, marks = "never", 0
    normalizers = _steps(tokenizer.get("normalizer"), "normalizers")
    for step in normalizers:
        if step == {"type": "Prepend", "prepend": BLANK} and not marks:
            blank = "prepend"
        elif _marks_blanks(step):
            marks += 1
        else:
            return None
    for step in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace" and not normalizers:
            if step.get("replacement") != BLANK or step.get("split", True):
                return None
            blank, marks = str(step.get("prepend_scheme", "always")), marks + 1
        elif not _splits_nothing(step):
            return None
    return blank if marks == 1 else None


def _marks_blanks(step: Settings) -> bool:
    return step == {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}


def _splits_nothing(step: Settings) -> bool:
    """Return whether a step splits at blanks, of which there are none once they are marked."""
    return bool(step["type"] == "Split" and step["pattern"] == {"String": " "})


def alphabet() -> dict[str, int]:
    """Return the 256 characters that stand for bytes in byte-level BPE, as GPT-2 has them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def bytes_without(vocabulary: Container[str]) -> list[int]:
    """Return the bytes of texts that a byte-level vocabulary has no tokens for."""
    return sorted(
        byte
        for text, byte in alphabet().items()
        if text not in vocabulary and byte not in NOT_IN_TEXTS
    )
