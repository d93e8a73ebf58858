"""The layout of an ONNX model's data file, read from what the traced model builder wrote.

Each initializer is matched with the float tensor that it came from, and that with a recipe.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

import numpy as np
import onnx
import onnx_ir
import torch

from olivebuild.ml.onnx.assemble import CONSTANTS
from olivebuild.ml.onnx.op_recorder import DTYPES, OpRecorder
from olivebuild.ml.onnx.skeleton import (
    Algorithm,
    Bits,
    Block,
    Quantised,
    Skeleton,
    Slot,
    TensorRecipe,
)
from olivebuild.ml.weights.errors import NotProvenEqual

CACHES = ("cos_cache", "sin_cache")
"""Float tensors that the builder computes from the configuration alone."""
K_NAME = re.compile(r"_Q[48]G\d+$")
"""The end of the names of values packed by k-quant and rtn; the default algorithm names no block.
"""
SUFFIXES = {"_Q4": 0, "_Q8": 0, "_scales": 1, "_scale": 1, "_zero_points": 2, "_zp": 2}
"""The ends of a quantised tensor's names -> which part it is: values, scales, zero points."""
FLOATS = (1, 10, 16)
"""onnx.TensorProto's types FLOAT, FLOAT16 and BFLOAT16."""
LARGE = 64
"""Elements from which a float tensor of unknown origin may be a weight."""
SPARSE_FILE = "holes"


@dataclass(frozen=True)
class RecordedInitializer:
    """An initializer of the float graph: the builder's tensor, and the dtype it is to have."""

    tensor: torch.Tensor
    dtype: torch.dtype


Recorded = dict[str, RecordedInitializer]
"""Initializers that came from the weights, by name."""


class MatMulNBits(NamedTuple):
    """The parameters of a node of that operator (com.microsoft)."""

    bits: Any
    block: Any
    k: int
    n: int
    has_zeros: bool
    algorithm: Algorithm


class Holes:
    """Tensors of a graph that take as many bytes of a file in `folder` that has none.

    They are the recorded ones, and what the quantiser makes of them.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / SPARSE_FILE
        self._file.touch()
        self._size = 0
        self._quantised: dict[int, np.ndarray] = {}
        """Identity of an array that a quantiser was to fill -> the array, alive until it is stored.
        """

    def replace(self, model: Any, recorded: Recorded) -> None:
        """Replace each recorded tensor of a graph."""
        for value in model.graph.initializers.values():
            if value.name in recorded:
                tensor = value.const_value
                self._grow(tensor.nbytes)
                value.const_value = onnx_ir.ExternalTensor(
                    SPARSE_FILE,
                    0,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=tensor.shape,
                    name=value.name,
                    base_dir=self._file.parent,
                )

    def _grow(self, size: int) -> None:
        if size > self._size:
            os.truncate(self._file, size)
            self._size = size

    def leave(self, packed: np.ndarray, _: np.ndarray, scales: np.ndarray, *__: Any) -> None:
        """Leave arrays alone, in the place of a kernel that fills them."""
        for array in (packed, scales):
            self._quantised[id(array)] = array

    def as_proto(self, tensor: Any) -> onnx.TensorProto | None:
        """Return the hole for a tensor (onnx_ir.Tensor) of a quantiser; None for others."""
        array = getattr(tensor, "raw", None)
        if not isinstance(array, np.ndarray) or self._quantised.pop(id(array), None) is None:
            return None
        self._grow(array.nbytes)
        proto = onnx.TensorProto(
            name=tensor.name,
            dims=array.shape,
            data_type=tensor.dtype.value,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        places = {"location": SPARSE_FILE, "offset": "0", "length": str(array.nbytes)}
        for key, value in places.items():
            proto.external_data.add(key=key, value=value)
        return proto

    def skip(self, tensor: Any, file: BinaryIO) -> bool:
        """Make room for a tensor in a data file, if it is a hole."""
        if Path(tensor.path).name != SPARSE_FILE or not tensor.nbytes:
            return False
        file.seek(tensor.nbytes - 1, os.SEEK_CUR)
        file.write(b"\0")
        return True


def read_layout(out: Path, watcher: OpRecorder, recorded: Recorded) -> Skeleton:
    """Match what the builder wrote into `out` with recipes.

    Constants are copied to a file of their own, and the data file is deleted. Raises
    NotProvenEqual.
    """
    file = out / "model.onnx"
    if not file.is_file():
        raise NotProvenEqual("the model builder did not write model.onnx")
    graph = onnx.load(file, load_external_data=False).graph
    data = file.with_name("model.onnx.data")
    with open(data, "rb") as source, open(out / CONSTANTS, "wb") as constants:
        layout = _Layout(watcher, recorded, _quantised_in(graph, recorded), source, constants)
        for tensor in graph.initializer:
            layout.add(tensor)
    size = data.stat().st_size
    data.unlink()
    return Skeleton(data.name, size, tuple(layout.tensors), tuple(layout.slots))


def _quantised_in(graph: Any, recorded: Recorded) -> dict[str | None, MatMulNBits]:
    """The parameters of each quantised tensor, by the name of its float tensor."""
    parameters: dict[str | None, MatMulNBits] = {}
    for node in graph.node:
        if node.op_type != "MatMulNBits":
            continue
        attributes = {a.name: a.i for a in node.attribute}
        if missing := {"bits", "block_size", "K", "N"} - attributes.keys():
            raise NotProvenEqual(f"{node.name} has no attribute {min(missing)}")
        parameters[origin_of(node.input[1], recorded)[0]] = MatMulNBits(
            bits=attributes["bits"],
            block=attributes["block_size"],
            k=attributes["K"],
            n=attributes["N"],
            has_zeros=len(node.input) > 3 and bool(node.input[3]),
            algorithm="k_quant" if K_NAME.search(node.input[1]) else "default",
        )
    return parameters


class _Layout:
    """The recipes and slots of a data file, as its initializers are added one by one."""

    def __init__(
        self,
        watcher: OpRecorder,
        recorded: Recorded,
        quantised: dict[str | None, MatMulNBits],
        source: BinaryIO,
        constants: BinaryIO,
    ) -> None:
        self._watcher = watcher
        self._recorded = recorded
        self._quantised = quantised
        self._source = source
        self._constants = constants
        self._numbers: dict[str, int] = {}
        self.tensors: list[TensorRecipe] = []
        self.slots: list[Slot] = []

    def add(self, tensor: Any) -> None:
        """Add an initializer (onnx.TensorProto). Raises NotProvenEqual."""
        external = {e.key: e.value for e in tensor.external_data}
        if not external:
            if tensor.name in self._recorded:
                raise NotProvenEqual(f"{tensor.name} is kept inside the graph")
            return
        offset, size = int(external.get("offset", 0)), int(external["length"])
        origin, part = origin_of(tensor.name, self._recorded)
        if origin is None:
            self._add_constant(tensor, offset, size)
            return
        if origin not in self._numbers:
            self._numbers[origin] = len(self.tensors)
            recorded, quantised = self._recorded[origin], self._quantised.get(origin)
            self.tensors.append(_recipe(origin, recorded, self._watcher, quantised))
        number = self._numbers[origin]
        if (part is None) != (self.tensors[number].quantised is None):
            raise NotProvenEqual(f"{tensor.name} is quantised in an unknown way")
        self.slots.append(Slot(tensor.name, offset, size, number, part or 0))

    def _add_constant(self, tensor: Any, offset: int, size: int) -> None:
        """Copy a tensor that depends on no weight."""
        is_large = tensor.data_type in FLOATS and np.prod(tensor.dims) >= LARGE
        if is_large and not any(cache in tensor.name for cache in CACHES):
            raise NotProvenEqual(f"nothing tells where {tensor.name} comes from")
        self._source.seek(offset)
        self.slots.append(Slot(tensor.name, offset, size, -1, self._constants.tell()))
        self._constants.write(self._source.read(size))


def origin_of(name: str, recorded: Recorded) -> tuple[str | None, int | None]:
    """The float tensor behind an initializer, and which part of its quantised form it is."""
    if name in recorded:
        return name, None
    bare = K_NAME.sub("", name)
    for suffix, part in SUFFIXES.items():
        if bare.removesuffix(suffix) in recorded:
            return bare.removesuffix(suffix), 0 if bare != name else part
    return None, None


def _recipe(
    name: str, recorded: RecordedInitializer, watcher: OpRecorder, parameters: MatMulNBits | None
) -> TensorRecipe:
    """The recipe of an initializer, quantised with `parameters`. Raises NotProvenEqual."""
    view = watcher.view(recorded.tensor)
    dtype = DTYPES.get(recorded.dtype)
    if dtype is None:
        raise NotProvenEqual(f"{name} is of the type {recorded.dtype}")
    if parameters is None:
        return TensorRecipe(view, dtype)
    bits, block, k, n, has_zeros, algorithm = parameters
    if view.shape != (k, n) or k % block:
        raise NotProvenEqual(f"{name} [{k}, {n}] in {dtype} has no kernel for blocks of {block}")
    if bits not in get_args(Bits) or block not in get_args(Block):
        raise NotProvenEqual(f"{name} has {bits} bits in blocks of {block}")
    return TensorRecipe(view, dtype, Quantised(bits, block, not has_zeros, dtype, algorithm))
