"""The file of an adapter for the slots of an ONNX model, as ONNX Runtime reads it.

`adapter.onnx_adapter` holds two tensors for each module: a [k, rank], and b [rank, n] times the
adapter's scale. `adapter.json` beside it names the modules with k, n and rank.

Format: https://onnxruntime.ai/docs/genai/reference/adapter.html
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from olivebuild.core.errors import InputError, Where
from olivebuild.core.fs.small_files import read_bytes
from olivebuild.core.values.typed import decode
from olivebuild.formats.structure import adapter_slots
from olivebuild.formats.structure.adapter_slots import Slots
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.weights import patterns
from olivebuild.ml.weights.adapter_config import PREFIX
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.lora import check_config, matrix_of, pairs_in, scale_of
from olivebuild.ml.weights.view import Weight, Weights

FILE, CONTENTS = "adapter.onnx_adapter", "adapter.json"
STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
BFLOAT16 = 16
"""Its number in onnx.TensorProto, by which ONNX Runtime takes it as 16-bit integers."""
WHERE_TO = (
    "layers_to_transform", "layers_pattern", "exclude_modules", "ensure_weight_tying",
)  # fmt: skip
"""Options that say which modules were adapted, which the tensors say, too."""
Positive = Annotated[int, Meta(gt=0)]


class Contents(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an adapter's file holds: name of a module -> (k, n, rank)."""

    version: Literal[1] = 1
    dtype: adapter_slots.Dtype
    modules: dict[str, tuple[Positive, Positive, Positive]]


class Part(Struct, frozen=True, kw_only=True):
    """The tensors of one module: a [rank, k] and b [n, rank], as an adapter's folder has them."""

    module: str
    a: Weight
    b: Weight
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


def parts_of(adapter: Weights, slots: Slots, base: str, where: Where | None) -> list[Part]:
    """Return what goes into the slots of `base`, one part a module, by name.

    Raises NotProvenEqual for an adapter that is no plain LoRA, InputError for one that does not
    fit the slots.
    """
    config = adapter.file("adapter_config.json")
    check_config(config, ignored=WHERE_TO)
    patterns.check(config, slots.modules, where)
    pairs, rest = pairs_in(adapter.by_name)
    if rest:
        raise NotProvenEqual(f"its tensor {min(rest)} is no part of a plain LoRA")
    if not pairs:
        raise NotProvenEqual("it holds no LoRA tensors")
    parts = []
    for stem, a, b in pairs:
        module = stem.removeprefix(PREFIX)
        if b is None or not stem.startswith(PREFIX):
            raise NotProvenEqual(f"{a.name} has no place in a model, or no other half")
        _check_fit(module, a, b, slots, base, where)
        parts.append(Part(module=module, a=a, b=b, scale=scale_of(config, module, a.shape[0])))
    return parts


def _check_fit(
    module: str, a: Weight, b: Weight, slots: Slots, base: str, where: Where | None
) -> None:
    """Raise InputError for a module without a slot, or with tensors of other shapes."""
    shape = slots.modules.get(module)
    if shape is None:
        raise InputError(
            f"the adapter changes {module}, for which {base} has no slot",
            where=where,
            hint=f"add {module.rpartition('.')[2]} to the `slots` of {base}, or write all-linear",
        )
    if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] or a.shape[0] != b.shape[1]:
        raise InputError(
            f"the adapter's tensors of {module} don't go together",
            where=where,
            hint="save it again",
        )
    if (a.shape[1], b.shape[0]) != tuple(shape):
        raise InputError(
            f"the adapter's {module} is for a weight of {b.shape[0]} x {a.shape[1]}, the one of "
            f"{base} has {shape[1]} x {shape[0]}",
            where=where,
            hint="was it trained on the model that the base was made from?",
        )


def write(out: Path, parts: Iterable[Part], slots: Slots, where: Where | None) -> int:
    """Write an adapter's two files into `out`; return the size of the first, in bytes.

    Raises InputError for numbers that are not finite in the base's format.
    """
    from onnxruntime import AdapterFormat

    arrays: dict[str, np.ndarray] = {}
    modules = {}
    for part in parts:
        a, b = adapter_slots.inputs_of(part.module)
        scaled = matrix_of(part.b).T * np.float32(part.scale)
        arrays[a] = _stored(matrix_of(part.a).T, slots.dtype, part.module, where)
        arrays[b] = _stored(scaled, slots.dtype, part.module, where)
        modules[part.module] = (part.a.shape[1], part.b.shape[0], part.rank)
    adapter = AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    # The values are views of the arrays, which have to live until the file is written.
    adapter.set_parameters({name: _value(array) for name, array in arrays.items()})
    adapter.export_adapter(str(out / FILE))
    contents = Contents(dtype=slots.dtype, modules=modules)
    (out / CONTENTS).write_bytes(msgspec.json.format(msgspec.json.encode(contents)) + b"\n")
    return (out / FILE).stat().st_size


def _stored(
    values: np.ndarray, dtype: adapter_slots.Dtype, module: str, where: Where | None
) -> np.ndarray:
    """Return float32 values in a number format. Raises InputError for what is not finite there."""
    with np.errstate(over="ignore"):
        stored = blockwise.narrow(np.ascontiguousarray(values), STORED[dtype])
    if not blockwise.is_finite(stored, STORED[dtype]):
        raise InputError(
            f"the adapter's tensors of {module} are infinite or not a number in {dtype}",
            where=where,
            hint="did its training diverge?",
        )
    return stored


def _value(array: np.ndarray) -> Any:
    from onnxruntime import OrtValue

    if array.dtype == np.uint16:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
    return OrtValue.ortvalue_from_numpy(array)


def read_slots(file: Path, where: Where | str | None) -> Slots:
    """Return the slots of a model, of which a file is the list. Raises InputError."""
    try:
        return adapter_slots.read(file)
    except FileNotFoundError:
        raise InputError(
            "the model has no slots for adapters",
            where=where,
            hint="build it with `slots`, or merge the adapter",
        ) from None
    except (OSError, ValueError) as e:
        raise InputError(
            f"the list of the model's slots can't be read: {file}: {e}",
            where=where,
            hint="build the model again",
        ) from None


def check_fits(folder: Path, base: Path) -> None:
    """Raise InputError unless the adapter in a folder fits the slots of the model in `base`."""
    slots = read_slots(base / adapter_slots.NAME, str(base))
    try:
        contents = decode(read_bytes(folder / CONTENTS), Contents)
    except (OSError, ValueError) as e:
        raise InputError(
            f"no adapter for an ONNX model: {e}",
            where=str(folder),
            hint="a target of kind onnx-adapter makes one",
        ) from None
    for module, (k, n, _) in contents.modules.items():
        if slots.modules.get(module) != (k, n) or slots.dtype != contents.dtype:
            raise InputError(
                f"the adapter's {module} does not fit the slots of the model",
                where=str(folder),
                hint="build both again: it was made for another base",
            )
