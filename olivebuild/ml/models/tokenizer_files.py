"""The tokenizer that an adapter brings along, as trainers save it beside the weights.

It replaces its base's as one set of files.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import InputError, Where
from olivebuild.formats.weight_files import folders_in, name_in
from olivebuild.ml.weights.view import Weights, read_at

if TYPE_CHECKING:
    from olivebuild.api.job import Job

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "*.tiktoken",
    "tekken.json",
    "spiece.model",
    "sentencepiece*.model",
    "vocab.json",
    "vocab.txt",
)
TEMPLATES = ("chat_template*.jinja", "chat_template*.json", "additional_chat_templates/*.jinja")
OTHERS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
File = tuple[str, str, Any]
"""(name, digest, place) of a file of a model, as in Weights.files."""
EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|embed_in|tok_embeddings|word_embeddings|embeddings)\.weight$"
)


def _is_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in patterns
    )


def is_tokenizer_file(name: str) -> bool:
    """Return whether a file of that name belongs to a tokenizer."""
    return _is_any(name, (*VOCABULARIES, *TEMPLATES, *OTHERS))


def found_in(folder: Path) -> list[tuple[str, Path]]:
    """Return the tokenizer files of a folder, by name."""
    files = [p for parent in (folder, *folders_in(folder)) for p in parent.iterdir() if p.is_file()]
    return sorted((name_in(folder, p), p) for p in files if is_tokenizer_file(name_in(folder, p)))


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer of its own."""
    return any(_is_any(name, VOCABULARIES) for name, _ in found_in(folder))


def with_tokenizer(job: Job, model: Weights, adapter: Weights) -> Weights:
    """Return the model with the adapter's tokenizer, where that differs from its own.

    Raises InputError for one that the embedding is too small for.
    """
    brought = [f for f in adapter.files if is_tokenizer_file(f[0])]
    replaced = _replaced([f for f in model.files if is_tokenizer_file(f[0])], brought)
    before, after = _contents(replaced), _contents(brought)
    if not brought or before == after:
        return model
    check_room(embedding_rows(model), brought, job.where("adapter"))
    job.note(
        "the adapter's own tokenizer goes into the merge, for it differs from the base's: "
        + _difference(before, after)
    )
    names = {name for name, _, _ in replaced}
    kept = [f for f in model.files if f[0] not in names]
    return replace(model, files=tuple(sorted([*kept, *brought], key=lambda f: f[0])))


def _replaced(files: list[File], brought: list[File]) -> list[File]:
    """Return the base's tokenizer files that an adapter's replace."""
    if any(_is_any(name, VOCABULARIES) for name, _, _ in brought):
        return files
    # A template alone, or settings: the vocabulary is the base's.
    names = {name for name, _, _ in brought}
    is_templated = any(_is_any(name, TEMPLATES) for name in names)
    return [f for f in files if f[0] in names or (is_templated and _is_any(f[0], TEMPLATES))]


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return the files that differ, and what is different about their habits."""
    differing = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    parts = [", ".join(differing[:4]) + (" ..." if len(differing) > 4 else "")]
    for habit, old, new in _habits(before, after):
        if old != new:
            parts.append(f"{habit} {new or 'none'} instead of {old or 'none'}")
    return "; ".join(parts)


def dress(folder: Path, model: Weights) -> None:
    """Give a folder the model's tokenizer files and no others."""
    for _, path in found_in(folder):
        path.unlink()
    for name, _, place in model.files:
        if is_tokenizer_file(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(read_at(place, 0, place.size))


def _contents(files: list[File]) -> dict[str, Any]:
    """Return the files' contents by name; JSON as its value, whatever its layout."""
    contents: dict[str, Any] = {}
    for name, _, place in files:
        data = read_at(place, 0, place.size)
        try:
            contents[name] = json.loads(data) if name.endswith(".json") else data
        except (ValueError, RecursionError):
            contents[name] = data
    return contents


def _habits(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (habit, the base's, the adapter's) for the end token and the chat template."""

    def end(files: dict[str, Any]) -> str:
        config = files.get("tokenizer_config.json")
        token = config.get("eos_token") if isinstance(config, dict) else None
        return str(token.get("content") if isinstance(token, dict) else token or "")

    def template(files: dict[str, Any]) -> str:
        config = files.get("tokenizer_config.json")
        within = isinstance(config, dict) and config.get("chat_template")
        return "one" if within or any(_is_any(name, TEMPLATES) for name in files) else ""

    return [
        ("end of sequence", end(before), end(after)),
        ("chat template", template(before), template(after)),
    ]


def check_room(rows: int | None, brought: list[File], where: Where | None) -> None:
    """Raise InputError where an embedding has fewer `rows` than a tokenizer has tokens."""
    place = next((place for name, _, place in brought if name == "tokenizer.json"), None)
    if place is None or rows is None:
        return
    try:
        needed = tokens_of(json.loads(read_at(place, 0, place.size)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InputError(
            f"the adapter's tokenizer.json can't be read: {e}",
            where=where,
            hint="is the file whole?",
        ) from None
    if needed > rows:
        fact = f"the adapter's tokenizer has {needed} tokens, the base's embedding {rows} rows"
        hint = (
            f"name a base with the same tokens: resize_token_embeddings({needed}), then save it "
            "with the adapter's tokenizer"
        )
        raise InputError(fact, where=where, hint=hint)


def tokens_of(tokenizer: dict[str, Any]) -> int:
    """Return one more than the greatest id in a tokenizer.json."""
    vocabulary = tokenizer["model"].get("vocab") or {}
    greatest = (
        max(vocabulary.values(), default=-1)
        if isinstance(vocabulary, dict)
        else len(vocabulary) - 1
    )
    return 1 + max(
        [int(greatest), *(int(token["id"]) for token in tokenizer.get("added_tokens") or ())]
    )


def embedding_rows(model: Weights) -> int | None:
    """Return the rows of a model's embedding; None where they can't be told."""
    rows = [
        w.shape[0]
        for name, w in model.by_name.items()
        if len(w.shape) == 2 and EMBEDDING.search(name)
    ]
    if rows:
        return max(rows)
    config = model.file("config.json")
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return int(size) if size else None
