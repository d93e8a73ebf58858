"""Slots of an ONNX folder: the modules for which an adapter can be given when it runs.

`adapter_slots.json` lies beside the graph. It names each module with the shape of its weight, and
the number format that an adapter's tensors must have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from olivebuild.core.fs.small_files import read_bytes
from olivebuild.core.values.typed import decode

NAME = "adapter_slots.json"
Positive = Annotated[int, Meta(gt=0)]
Dtype = Literal["float32", "float16", "bfloat16"]


class Slots(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an adapter of a folder may hold.

    `modules`: name of a module -> (inputs, outputs) of its weight. `tokens` are the rows of the
    model's embedding.
    """

    version: Literal[1] = 1
    dtype: Dtype
    tokens: Positive
    modules: dict[str, tuple[Positive, Positive]]

    def to_json(self) -> bytes:
        """Return the text of the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read(file: Path) -> Slots:
    """Read a file of slots. Raises ValueError and OSError."""
    return decode(read_bytes(file), Slots)


def inputs_of(module: str) -> tuple[str, str]:
    """Return the names of the graph's two inputs for a module: a [k, rank] and b [rank, n]."""
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"
