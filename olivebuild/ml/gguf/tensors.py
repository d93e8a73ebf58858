"""Tensors of a model's safetensors, as a GGUF file has them: names, order of rows, types.

One at a time is in memory. Matrices get the type that was asked for, vectors stay in float32.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, get_tensor_name_map, quants
from gguf.quants import quant_shape_to_byte_shape
from msgspec import Struct

from olivebuild.core.errors import InputError
from olivebuild.formats.safetensors import Tensor, tensors_of
from olivebuild.formats.weight_files import weight_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

TYPES = {
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
}
F32, F16, Q8_0 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0
BLOCK = 32
"""Numbers of a row that share a scale, in Q8_0 and Q4_0."""
LARGEST_F16 = 65504.0
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
BIASED = {
    "llama": ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
    "qwen2": ("attn_q", "attn_k", "attn_v"),
}
"""Architecture -> layers whose biases llama.cpp adds."""
IGNORED = ("rotary_emb.inv_freq",)
"""Ends of names of what transformers computes anew."""


class Placed(Struct, frozen=True, kw_only=True):
    """A tensor of the model, and what becomes of it in the file."""

    name: str
    tensor: Tensor
    file: Path
    type: GGMLQuantizationType
    shape: tuple[int, ...]


class Tensors:
    """The tensors of a model folder for a file of an architecture.

    `config` is the model's of transformers. Raises InputError for tensors that llama.cpp has no
    place for, and where some are missing.
    """

    def __init__(self, folder: Path, architecture: str, config: Any, kind: str) -> None:
        self._folder, self._architecture, self._config = folder, architecture, config
        self._type = TYPES[kind]
        self._tied = bool(config.tie_word_embeddings)
        self._layers = int(config.num_hidden_layers)
        arch = next(a for a in MODEL_ARCH if MODEL_ARCH_NAMES[a] == architecture)
        self._names = get_tensor_name_map(arch, self._layers)
        self.notes: list[str] = []
        self.placed = sorted(self._placed(), key=lambda p: _order(p.name))
        self._check_whole()

    @property
    def rows(self) -> int:
        """Rows of the embedding."""
        return next(p.shape[0] for p in self.placed if p.name == EMBEDDING)

    def _placed(self) -> Iterator[Placed]:
        coarse = []
        for file in weight_files(self._folder).names:
            for tensor in tensors_of(self._folder / file):
                name = self._name(tensor)
                if name is None:
                    continue
                kind = self._type_of(name, tensor)
                if kind is F16 and self._type is not F16:
                    coarse.append(name)
                yield Placed(
                    name=name,
                    tensor=tensor,
                    file=self._folder / file,
                    type=kind,
                    shape=tensor.shape,
                )
        if coarse:
            self.notes.append(
                f"{len(coarse)} matrices stay in float16, for their rows are not made of blocks of "
                f"{BLOCK}: {coarse[0]}" + (", ..." if coarse[1:] else "")
            )

    def _name(self, tensor: Tensor) -> str | None:
        """Return a tensor's name in the file; None for one that has no place in it."""
        name = tensor.name
        if name.endswith(IGNORED) or (self._tied and name == "lm_head.weight"):
            return None
        told = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if told and told.endswith(".bias"):
            layer = told.removesuffix(".bias").rpartition(".")[2]
            told = told if layer in BIASED.get(self._architecture, ()) else None
        if told is None:
            fact = f"llama.cpp has no place for {name} in the architecture {self._architecture}"
            raise InputError(fact, where=str(self._folder), hint="no GGUF file can hold it")
        if tensor.dtype not in ("F32", "F16", "BF16"):
            fact = f"{name} is {tensor.dtype}, and not F32, F16 or BF16"
            raise InputError(fact, where=str(self._folder), hint="are the weights quantised?")
        return told

    def _type_of(self, name: str, tensor: Tensor) -> GGMLQuantizationType:
        if len(tensor.shape) < 2:
            return F32
        if self._type is F16 or tensor.shape[-1] % BLOCK:
            return F16
        # What scores all tokens decides by small differences: 4 bits would cost most there.
        return Q8_0 if name == (EMBEDDING if self._tied else HEAD) else self._type

    def _check_whole(self) -> None:
        names = {p.name for p in self.placed}
        layers = [
            {n.partition(".")[2].partition(".")[2] for n in names if n.startswith(f"blk.{i}.")}
            for i in range(self._layers)
        ]
        needed = {EMBEDDING, "output_norm.weight"} | (set() if self._tied else {HEAD})
        missing = sorted(needed - names) or [
            f"blk.{i}.{part}"
            for i, parts in enumerate(layers)
            for part in sorted(set().union(*layers) - parts)
        ]
        if missing or not layers[0]:
            fact = f"the model has no {missing[0] if missing else 'layers'}"
            raise InputError(fact, where=str(self._folder), hint="is the download complete?")
        if len(names) != len(self.placed):
            fact = "two tensors of the model have the same place in the file"
            raise InputError(fact, where=str(self._folder), hint="is it two models in one folder?")

    def data_of(self, placed: Placed) -> NDArray[Any]:
        """Return a tensor's numbers in the file's type and order.

        Raises InputError for numbers that are not finite, or too large for float16.
        """
        values = self._arranged(placed.name, _read(placed))
        largest = float(np.abs(values).max(initial=0.0))
        if not np.isfinite(largest):
            fact = f"{placed.tensor.name} holds NaN or infinite numbers"
            hint = "did the training that made it go well?"
            raise InputError(fact, where=str(placed.file), hint=hint)
        # A scale of Q8_0 and Q4_0 is a float16, too.
        most = LARGEST_F16 * (1 if placed.type is F16 else 8)
        if placed.type is not F32 and largest > most:
            fact = (
                f"{placed.tensor.name} holds {largest:g}, which is too large for {placed.type.name}"
            )
            raise InputError(fact, where=str(placed.file), hint="its type goes no further")
        return quants.quantize(values, placed.type)

    def _arranged(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a tensor's numbers as llama.cpp computes with them."""
        if self._architecture == "llama" and ".attn_q." in name:
            return interleaved(values, int(self._config.num_attention_heads))
        if self._architecture == "llama" and ".attn_k." in name:
            heads = getattr(self._config, "num_key_value_heads", None)
            return interleaved(values, int(heads or self._config.num_attention_heads))
        if self._architecture.startswith("gemma") and name.endswith("norm.weight"):
            # Gemma's norms multiply by one more than their weight.
            return values + np.float32(1)
        return values


def interleaved(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return rows with the halves of each head in turns.

    transformers rotates a head's first half with its second one, llama.cpp neighbours.
    """
    size = values.shape[0] // heads
    halves = values.reshape(heads, 2, size // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def byte_shape(placed: Placed) -> tuple[int, ...]:
    """Return the shape in bytes of a tensor in the file, its last axis in bytes."""
    return tuple(quant_shape_to_byte_shape(placed.shape, placed.type))


def _order(name: str) -> tuple[int, int, str]:
    """Return where a tensor goes: the embedding, the layers in their order, the output."""
    parts = name.split(".")
    if parts[0] == "blk":
        return 1, int(parts[1]), name
    return (0 if name == EMBEDDING else 2), 0, name


def _read(placed: Placed) -> NDArray[np.float32]:
    tensor = placed.tensor
    if tensor.start == tensor.end:
        return np.zeros(tensor.shape, np.float32)
    with (
        open(placed.file, "rb") as f,
        mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        raw = data[tensor.start : tensor.end]
    if tensor.dtype == "BF16":
        wide = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tensor.shape)
    kind = "<f2" if tensor.dtype == "F16" else "<f4"
    return np.frombuffer(raw, kind).astype(np.float32).reshape(tensor.shape)
