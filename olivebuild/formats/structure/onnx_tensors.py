"""Where the tensors of an ONNX graph lie in its data files.

Read from the wire format, as onnx_file.py does.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from olivebuild.core.fs import opening
from olivebuild.formats.onnx_file import Fields

_MODEL_GRAPH, _GRAPH_TENSOR, _TENSOR_EXTERNAL = 7, 5, 13
_KEY, _VALUE = 1, 2


def tensors_of(graph: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (location, offset, length) in bytes of the initialisers that lie in data files.

    Those of subgraphs are left out. Raises ValueError for what is no ONNX file, OSError.
    """
    with opening.open_file(graph) as f:
        if not graph.stat().st_size:
            raise ValueError("the file is empty")
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            fields = Fields(data)

            def inside(start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
                for number, at, stop, value in fields.read(start, end):
                    if number == wanted and value is None:
                        yield at, stop

            for in_graph in inside(0, len(data), _MODEL_GRAPH):
                for tensor in inside(*in_graph, _GRAPH_TENSOR):
                    told: dict[str, str] = {}
                    for entry in inside(*tensor, _TENSOR_EXTERNAL):
                        texts = {
                            number: data[at:stop].decode("utf-8")
                            for number, at, stop, _ in fields.read(*entry)
                        }
                        told[texts.get(_KEY, "")] = texts.get(_VALUE, "")
                    if "location" in told and "length" in told:
                        yield told["location"], int(told.get("offset") or 0), int(told["length"])
