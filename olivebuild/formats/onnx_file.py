"""External names of an ONNX file, and the operators that it calls.

Read from its wire format, without onnx or a copy in memory.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto in
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from olivebuild.core.fs import opening

MOST_FIELDS = 4_000_000
"""A graph of a large model has some hundred thousand fields.

With more, reading would take minutes.
"""
MOST_DEEP = 60
"""Messages within messages; protobuf's own readers stop at 100, and each subgraph takes three."""


class Named(NamedTuple):
    """`files`: locations of external data.

    `operators`: (domain, type) of all nodes but those of the file's own functions.
    """

    files: frozenset[str]
    operators: frozenset[tuple[str, str]]


_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _ENTRY, _FUNCTION, _TRAINING = range(9)
_INSIDE: Mapping[int, Mapping[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
    _ENTRY: {},
}
"""kind of message -> field -> kind of the message in it.

A message that stands twice is both, as protobuf merges them.
"""
_TEXTS: Mapping[int, tuple[int, int]] = {_NODE: (7, 4), _FUNCTION: (10, 1), _ENTRY: (1, 2)}
"""kind -> the two fields whose texts are asked for: (domain, type), (domain, name), (key, value).
"""


def named_in(path: Path) -> Named:
    """Raises ValueError for what is no ONNX file, OSError."""
    with opening.open_file(path) as f:
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            reader.read(_MODEL, 0, len(data), 0)
    return Named(frozenset(reader.files), frozenset(reader.called - reader.defined))


class Fields:
    """The fields of protobuf messages in a file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._left = MOST_FIELDS

    def read(self, start: int, end: int) -> Iterator[tuple[int, int, int, int | None]]:
        """Yield (number, start, end, value) of each field of a message.

        `value` is that of a whole number, and None for what has bytes. Raises ValueError.
        """
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {MOST_FIELDS} fields")
            begin = at
            tag, at = self._varint(at, end)
            number, wire, value = tag >> 3, tag & 7, None
            if wire == 2:
                length, at = self._varint(at, end)
                if length > end - at:
                    raise ValueError("a field is longer than what it lies in")
                begin, at = at, at + length
            elif wire == 0:
                value, at = self._varint(at, end)
            elif wire in (1, 5):
                begin, at = at, at + (8 if wire == 1 else 4)
                # A number of fixed length is no message, and none that ONNX has in place of one.
                number = -number
            else:
                raise ValueError(f"wire type {wire} is not one of ONNX")
            yield number, begin, at, value
        if at != end:
            raise ValueError("a field is longer than what it lies in")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise ValueError("a number does not end")


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.files: set[str] = set()
        self.called: set[tuple[str, str]] = set()
        self.defined: set[tuple[str, str]] = set()
        self._data = data
        self._fields = Fields(data)

    def read(self, kind: int, start: int, end: int, depth: int) -> None:
        if depth > MOST_DEEP:
            raise ValueError("graphs lie too deep in one another")
        inside, (first, second) = _INSIDE[kind], _TEXTS.get(kind, (0, 0))
        firsts, seconds = [""], [""]
        for number, at, stop, value in self._fields.read(start, end):
            if value is not None:
                continue
            if number in inside:
                self.read(inside[number], at, stop, depth + 1)
            elif number == first:
                firsts.append(self._text(at, stop))
            elif number == second:
                seconds.append(self._text(at, stop))
        # Of a field that stands twice, protobuf's readers take the last.
        if kind == _NODE:
            self.called.add((firsts[-1], seconds[-1]))
        elif kind == _FUNCTION:
            self.defined.add((firsts[-1], seconds[-1]))
        elif kind == _ENTRY and "location" in firsts:
            self.files.update(seconds[1:])

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].decode("utf-8")
