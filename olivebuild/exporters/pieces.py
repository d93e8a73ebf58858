"""The tensors in the data files of ONNX graphs, by which a delta tells what has changed.

The store cuts such a file into long segments, in each of which an adapter changes something.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from olivebuild.core import hashing
from olivebuild.exporters.manifest import Runs
from olivebuild.formats.onnx_folder import graphs, stays_inside
from olivebuild.formats.structure.onnx_tensors import tensors_of

READ = 8 << 20
"""Bytes that are held in memory."""


def of_tensors(folder: Path) -> dict[str, Runs]:
    """Return name of a data file -> its (digest, size), tensor by tensor and what lies between.

    A graph that can't be read has none.
    """
    cuts: dict[str, set[int]] = {}
    for graph in graphs(folder):
        try:
            for location, offset, length in tensors_of(graph):
                if stays_inside(location):
                    name = (graph.relative_to(folder).parent / location).as_posix()
                    cuts.setdefault(name, set()).update((offset, offset + length))
        except (OSError, ValueError, RecursionError):
            continue
    return {
        name: tuple(_pieces(folder / name, offsets))
        for name, offsets in cuts.items()
        if (folder / name).is_file()
    }


def _pieces(file: Path, offsets: set[int]) -> Iterator[tuple[str, int]]:
    size = os.stat(file).st_size
    places = sorted({0, size, *(offset for offset in offsets if 0 < offset < size)})
    with open(file, "rb") as f:
        for start, end in pairwise(places):
            digest, left = hashing.hasher(), end - start
            while left:
                data = f.read(min(READ, left))
                digest.update(data)
                left -= len(data)
            yield digest.hexdigest(), end - start
