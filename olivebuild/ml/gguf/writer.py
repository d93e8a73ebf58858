"""A model folder of transformers -> a GGUF file.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_VERSION
from msgspec import Struct

from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.ml.gguf.parameters import Parameters
from olivebuild.ml.gguf.tensors import Placed, Tensors, byte_shape
from olivebuild.ml.gguf.vocabulary import Vocabulary, additions, vocabulary_of

FILE_TYPES = {
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
STRIPPING = re.compile("phi-?3", re.IGNORECASE)
"""In a model's name, at which llama.cpp takes away blanks behind special tokens."""
ALIGNMENT = 32


class Written(Struct, frozen=True, kw_only=True):
    """What was written: the context in which nothing differs, notes, and the file's pieces.

    `runs`: (digest, size in bytes) of the header and of each tensor with its padding, in order.
    """

    context: int
    begins: bool
    """llama.cpp puts a beginning before each text."""
    notes: tuple[str, ...]
    runs: tuple[tuple[str, int], ...]


class Model(Struct, frozen=True, kw_only=True):
    """A model to write: its folder and what was read of it.

    `template` is its chat template as it was published; `ends` are the tokens that end its answers.
    """

    name: str
    folder: Path
    architecture: str
    config: Any
    tokenizer: Any
    template: str
    ends: tuple[int, ...]
    begins_special: bool
    """Prompts of the chat template begin with a special token."""


def write(model: Model, kind: str, out: Path) -> Written:
    """Write the file. Raises InputError for a model that no GGUF file can hold as it is."""
    where = str(model.folder)
    tensors = Tensors(model.folder, model.architecture, model.config, kind)
    vocabulary = vocabulary_of(
        model.tokenizer, tensors.rows, where, begins_special=model.begins_special
    )
    begins, ends = additions(model.tokenizer, where)
    parameters = Parameters(model.architecture, model.config, where)
    writer = GGUFWriter(out, model.architecture)
    writer.add_type("model")
    writer.add_name(name_for(model.name, strips=vocabulary.strips))
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_file_type(FILE_TYPES[kind])
    factors = parameters.write(writer)
    _write_vocabulary(writer, vocabulary)
    notes = _write_special(writer, model, len(vocabulary.tokens))
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(ends)
    if model.template:
        writer.add_chat_template(model.template)
    for name, values in factors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for placed in tensors.placed:
        _announce(writer, placed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in factors.values():
        writer.write_tensor_data(values)
    for placed in tensors.placed:
        writer.write_tensor_data(tensors.data_of(placed))
    writer.close()
    sizes = [v.nbytes for v in factors.values()]
    sizes += [int(np.prod(byte_shape(p))) for p in tensors.placed]
    return Written(
        context=parameters.context,
        begins=begins,
        notes=(*parameters.notes, *vocabulary.notes, *notes, *tensors.notes),
        runs=_runs(out, sizes),
    )


def name_for(name: str, *, strips: bool) -> str:
    """Return the name that a file gives the model: one at which llama.cpp strips, or does not."""
    if strips:
        return name if STRIPPING.search(name) else f"{name} (Phi-3)"
    return STRIPPING.sub("phi 3", name)


def _announce(writer: GGUFWriter, placed: Placed) -> None:
    shape = byte_shape(placed)
    kind = np.dtype(np.uint8)
    writer.add_tensor_info(placed.name, shape, kind, int(np.prod(shape)), raw_dtype=placed.type)


def _write_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.splitter)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    writer.add_add_space_prefix(vocabulary.blank_first)


def _write_special(writer: GGUFWriter, model: Model, size: int) -> list[str]:
    """Write the special tokens, and return notes on ends that have no place."""
    tokenizer, ends = model.tokenizer, list(model.ends)
    first = tokenizer.eos_token_id
    if ends and first not in ends:
        first = ends[0]
    others = [end for end in ends if end != first]
    ids = {
        writer.add_bos_token_id: tokenizer.bos_token_id,
        writer.add_eos_token_id: first,
        writer.add_eot_token_id: others[0] if others else None,
        writer.add_eom_token_id: others[1] if others[1:] else None,
        writer.add_unk_token_id: tokenizer.unk_token_id,
        writer.add_pad_token_id: tokenizer.pad_token_id,
    }
    for add, number in ids.items():
        if number is not None and number < size:
            add(number)
    if not others[2:]:
        return []
    shown = ", ".join(tokenizer.convert_ids_to_tokens(others[2:]))
    return [f"a GGUF file names three ends of an answer at most; left out: {shown}"]


def _runs(out: Path, sizes: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """Return (digest, size) of a file's header and of its tensors with their padding."""
    padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    start = out.stat().st_size - sum(padded)
    if start <= 0:
        fact = "the file is shorter than its tensors"
        raise InputError(fact, where=str(out), hint="is the disk full?")
    runs = []
    for offset, size in zip([start - start, *_sums(start, padded)], [start, *padded], strict=True):
        runs.append((hashing.of_range(out, offset, size)[0], size))
    return tuple(runs)


def _sums(start: int, sizes: Sequence[int]) -> list[int]:
    places, place = [], start
    for size in sizes:
        places.append(place)
        place += size
    return places
