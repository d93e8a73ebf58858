"""The digest of an ONNX graph without the values of its weights.

Read from the wire format, as onnx_file.py does.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from olivebuild.core import hashing
from olivebuild.core.fs import opening
from olivebuild.formats.onnx_file import MOST_DEEP, Fields

INTEGERS = frozenset({6, 7, 9})
"""INT32, INT64 and BOOL of TensorProto.DataType: shapes, axes and indices, which decide what is
computed. Weights are floats, and blocks of 4 or 8 bits.
"""
MOST_VALUES = 1 << 16
"""Bytes of a tensor from which on integers are weights, too."""
_MODEL_GRAPH, _MODEL_PROPERTIES, _MODEL_DOC = 7, 14, 6
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE, _GRAPH_DOC, _GRAPH_QUANTISATION = 1, 5, 15, 10, 14
_NODE_ATTRIBUTE, _NODE_TYPE, _NODE_DOMAIN = 5, 4, 7
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_DOC = 1, 2, 8, 13, 12


def graph_digest(path: Path) -> tuple[str, set[tuple[str, str]]]:
    """Return the digest of a graph without weights, and the (domain, type) of its operators.

    Names, shapes and types of initialisers are in it, and the values of small integers. Raises
    ValueError for what is no ONNX file, OSError.
    """
    with opening.open_file(path) as f:
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Digester(data)
            reader.model(0, len(data))
    return str(reader.hash.hexdigest()), reader.operators


class _Digester:
    def __init__(self, data: mmap.mmap) -> None:
        self.hash: Any = hashing.hasher()
        self.operators: set[tuple[str, str]] = set()
        self._data = data
        self._fields = Fields(data)

    def model(self, start: int, end: int) -> None:
        for number, at, stop, value in self._fields.read(start, end):
            if number == _MODEL_GRAPH and value is None:
                self._graph(at, stop, 0)
            elif number not in (_MODEL_PROPERTIES, _MODEL_DOC):
                self._add("model", number, at, stop, value)

    def _graph(self, start: int, end: int, depth: int) -> None:
        if depth > MOST_DEEP:
            raise ValueError("graphs lie too deep in one another")
        self._mark("graph")
        for number, at, stop, value in self._fields.read(start, end):
            if number == _GRAPH_NODE:
                self._node(at, stop, depth)
            elif number == _GRAPH_TENSOR:
                self._tensor(at, stop)
            elif number not in (_GRAPH_DOC, _GRAPH_QUANTISATION, _GRAPH_SPARSE):
                self._add("graph", number, at, stop, value)
            elif number == _GRAPH_SPARSE:
                # How much of it is zero decides how fast it is.
                self._add("sparse", number, at, stop, value)
        self._mark("end")

    def _node(self, start: int, end: int, depth: int) -> None:
        self._mark("node")
        names = {_NODE_TYPE: "", _NODE_DOMAIN: ""}
        for number, at, stop, value in self._fields.read(start, end):
            if number in names:
                names[number] = self._data[at:stop].decode("utf-8")
            if number == _NODE_ATTRIBUTE:
                self._attribute(at, stop, depth)
            else:
                self._add("node", number, at, stop, value)
        self.operators.add((names[_NODE_DOMAIN], names[_NODE_TYPE]))

    def _attribute(self, start: int, end: int, depth: int) -> None:
        self._mark("attribute")
        for number, at, stop, value in self._fields.read(start, end):
            if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and value is None:
                self._graph(at, stop, depth + 1)
            else:
                self._add("attribute", number, at, stop, value)

    def _tensor(self, start: int, end: int) -> None:
        """Add an initialiser: its name, type and shape, and its values where they may be a shape.

        Where a data file has them they are weights.
        """
        fields = list(self._fields.read(start, end))
        kind = next((value for number, *_, value in fields if number == _TENSOR_TYPE), 0)
        with_values = kind in INTEGERS and end - start < MOST_VALUES
        self._mark("tensor")
        for number, at, stop, value in fields:
            described = number in (_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME)
            if described or (with_values and number not in (_TENSOR_EXTERNAL, _TENSOR_DOC)):
                self._add("tensor", number, at, stop, value)

    def _mark(self, text: str) -> None:
        self.hash.update(f"<{text}>".encode())

    def _add(self, place: str, number: int, at: int, stop: int, value: int | None) -> None:
        """Add a field: a number, or bytes with their length."""
        said = f"{place} {number} {stop - at if value is None else value}:"
        self.hash.update(said.encode())
        if value is None:
            self.hash.update(self._data[at:stop])
