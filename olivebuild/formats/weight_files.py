"""The files of a model's folder that a loader reads, and the digest of what they hold."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from msgspec import Struct

from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.core.fs.small_files import check_size, read_json
from olivebuild.formats import not_a_model
from olivebuild.formats.safetensors import COMPLETE, sum_of_tensors, tensors_of

READ_FILES = (
    "config.json", "generation_config.json", "chat_template*", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "*.model", "*.tiktoken", "*preprocessor_config.json",
    "processor_config.json", "audio_tokenizer_config.json",
    "config.*.json", "additional_chat_templates/*.jinja", "tekken.json", "bpe.codes", "dict.txt",
    "emoji.json", "byte_maps.json",
    "normalizer.json", "*_vocab.json", "vocab-*.json", "word_*.json", "prophetnet.tokenizer",
)  # fmt: skip
"""What transformers' configurations, tokenizers, processors and generation read beside the weights;
one folder deep at most.
"""
CODE_FILES = ("*.py", "custom_generate/*")
FOLDERS = ("additional_chat_templates", "custom_generate")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAMED_IN_CONFIG = "transformers_weights"
_FIVE_DIGITS = "[0-9]" * 5
RANK_FILE = f"shard-{_FIVE_DIGITS}-model-{_FIVE_DIGITS}-of-{_FIVE_DIGITS}.safetensors"
"""What a training with several ranks leaves: transformers would load it in place of the model's own
files.
"""


class WeightFiles(Struct, frozen=True):
    """The files that hold a model's tensors, in the order in which they are loaded.

    And the index that names them ("" without one).
    """

    names: tuple[str, ...]
    index: str = ""


def weight_files(folder: Path) -> WeightFiles:
    """Return which weights transformers would load from a folder.

    What config.json names, else model.safetensors, else what the index names.

    As `_get_resolved_checkpoint_files` of transformers/modeling_utils.py. Raises InputError where
    it would load none or other ones.
    """
    names = {p.name for p in folder.iterdir() if p.is_file()}
    for name in {WHOLE, INDEX} - names:
        if os.path.lexists(folder / name):
            fact = (
                f"{name} links to what is not there"
                if (folder / name).is_symlink()
                else f"{name} is not a file"
            )
            raise InputError(fact, where=str(folder), hint=COMPLETE)
    chosen = chosen_of(names, folder)
    if chosen.endswith(".index.json"):
        return WeightFiles(_indexed(folder, chosen), chosen)
    return WeightFiles((chosen,))


def chosen_of(names: Collection[str], folder: Path) -> str:
    """Return the weight file, or the index, of a model folder with files of these names.

    It has them, or will have them. Raises InputError.
    """
    if rank_files := sorted(name for name in names if fnmatch(name, RANK_FILE)):
        hint = "move it elsewhere: transformers would load it in place of the model"
        raise InputError(
            f"{rank_files[0]} is the state of a training with several ranks",
            where=str(folder),
            hint=hint,
        )
    if named := _config(folder).get(NAMED_IN_CONFIG):
        if (
            not isinstance(named, str)
            or not named.endswith((".safetensors", ".safetensors.index.json"))
            or not _is_inside(named)
        ):
            hint = (
                f"a .safetensors file, or an index, of this folder; or leave {NAMED_IN_CONFIG} out"
            )
            raise InputError(
                f"{NAMED_IN_CONFIG} is {named!r}", where=str(folder / "config.json"), hint=hint
            )
        if named not in names:
            raise InputError(
                f"{named} is missing",
                where=str(folder / "config.json"),
                hint=f"{NAMED_IN_CONFIG} names it: is the download complete?",
            )
        return named
    for name in (WHOLE, INDEX):
        if name in names:
            return name
    fact, hint = not_a_model.without_weights(names)
    raise InputError(fact, where=str(folder), hint=hint)


def _config(folder: Path) -> dict[str, Any]:
    """config.json; empty if it can't be read, which its readers tell."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _is_inside(name: str) -> bool:
    return not {"/", "\\", "\0"} & set(name)


def files_of_index(folder: Path, index: str, names: Collection[str]) -> dict[str, str]:
    """Return what an index says: tensor -> weight file, each of which is one of `names`.

    Raises InputError.
    """
    where = str(folder / index)
    try:
        index_data = read_json(folder / index)
        entries = dict(index_data["weight_map"])
        if (
            not isinstance(index_data["metadata"], dict)
            or not entries
            or not all(isinstance(name, str) for name in entries.values())
        ):
            raise ValueError("no map from tensors to files")
    except (OSError, ValueError, KeyError, TypeError) as e:
        said = f"{e} is missing" if isinstance(e, KeyError) else str(e)
        raise InputError(f"not an index of weights: {said}", where=where, hint=COMPLETE) from None
    for file in sorted(set(entries.values())):
        if not file.endswith(".safetensors") or not _is_inside(file):
            raise InputError(
                f"the index names {file!r}",
                where=where,
                hint="only .safetensors files of the model's own folder are read",
            )
        if file not in names:
            tensor = min(name for name, value in entries.items() if value == file)
            raise InputError(
                f"{file} is missing, where the index has {tensor}", where=where, hint=COMPLETE
            )
    return entries


def _indexed(folder: Path, index: str) -> tuple[str, ...]:
    """The weight files that an index names, checked against their headers. Raises InputError."""
    where = str(folder / index)
    entries = files_of_index(folder, index, {p.name for p in folder.iterdir() if p.is_file()})
    files = tuple(sorted(set(entries.values())))
    lies_in: dict[str, str] = {}
    for file in files:
        for t in tensors_of(folder / file):
            if t.name in lies_in:
                hint = (
                    "which one is loaded depends on the loader; leave one of them out, or save the "
                    "model anew with save_pretrained"
                )
                raise InputError(
                    f"{t.name} lies in two weight files, {lies_in[t.name]} and {file}",
                    where=where,
                    hint=hint,
                )
            lies_in[t.name] = file
    for name, file in sorted(entries.items()):
        if lies_in.get(name) != file:
            place = (
                f"but it lies in {lies_in[name]}" if name in lies_in else "which does not hold it"
            )
            raise InputError(
                f"the index has {name} in {file}, {place}",
                where=where,
                hint="is the index that of these files?",
            )
    return files


def ignored_weights(folder: Path) -> list[str]:
    """Weight files in a model's folder that no loader reads. Raises InputError."""
    read = weight_files(folder)
    return sorted({p.name for p in folder.glob("*.safetensors")} - set(read.names))


def model_files(folder: Path, *, code: bool = False) -> tuple[list[Path], list[Path]]:
    """Return (weight files, other files that a loader reads) of a Hugging Face folder.

    `code`: Python files are read too. The index is neither.

    Raises InputError when there are no safetensors weights or no config.json.
    """
    if not (folder / "config.json").is_file():
        fact, hint = not_a_model.folder_like(folder)
        raise InputError(f"not a Hugging Face model folder: {fact}", where=str(folder), hint=hint)
    weights = [folder / name for name in weight_files(folder).names]
    if (folder / "adapter_config.json").is_file():
        hint = (
            "transformers would load the adapter on top of the weights; move it to a folder "
            "of its own"
        )
        raise InputError(
            "the model folder holds an adapter (adapter_config.json)", where=str(folder), hint=hint
        )
    patterns = (*READ_FILES, *CODE_FILES) if code else READ_FILES
    listed = [p for parent in (folder, *folders_in(folder)) for p in parent.iterdir()]
    named = [p for p in listed if any(_fits(name_in(folder, p), pattern) for pattern in patterns)]
    # Pipes and devices, too, so that they are told.
    read = [p for p in named if p.exists() and not p.is_dir()]
    for path in read:
        check_size(path)
    return weights, sorted(read, key=lambda p: name_in(folder, p))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a model's folder that loaders read files of."""
    return [folder / name for name in FOLDERS if (folder / name).is_dir()]


def _fits(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def name_in(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def model_digest(folder: Path, memo: hashing.StatMemo, *, code: bool = False) -> str:
    """The digest of what a loader reads: tensors, however sharded, and the non-weight files.

    README, .git and the like don't count.

    Neither does an index: it is checked against the files that it names, so that it says nothing
    that they don't.
    """
    weights, others = model_files(folder, code=code)
    return digest_of_sums(
        [memo.digest(w, sum_of_tensors, "tensors") for w in weights],
        [(name_in(folder, p), memo.digest(p)) for p in others],
    )


def digest_of_sums(sums: Iterable[str], others: Iterable[tuple[str, str]]) -> str:
    """`others` are (name, digest) of the non-weight files, sorted by name."""
    total = sum(int(s, 16) for s in sums) % (1 << 128)
    return hashing.of_json(["model", f"{total:032x}", [list(other) for other in others]])
